// Every CPU kernel, for one instruction set, and the table that dispatch.cpp picks.
#include "fairlead/cpu.h"
#include "simd.inl"
//
#include "math.inl"
//
#include "gae.inl"
#include "philox.inl"
#include "sample.inl"

namespace fairlead::FAIRLEAD_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {gae, philox_uniform, sample};

}  // namespace fairlead::FAIRLEAD_ISA
