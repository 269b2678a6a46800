// Every CPU kernel, for one instruction set, and the table that dispatch.cpp picks.
#include "fairlead/cpu.h"
#include "simd.inl"
//
#include "gae.inl"

namespace fairlead::FAIRLEAD_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {gae};

}  // namespace fairlead::FAIRLEAD_ISA
