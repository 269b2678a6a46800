// Every CPU kernel, for one instruction set, and the table that dispatch.cpp picks.
#include "fairlead/cpu.h"
#include "simd.inl"
//
#include "math.inl"
//
#include "decode_attention.inl"
#include "gae.inl"

namespace fairlead::FAIRLEAD_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {gae, decode_attention};

}  // namespace fairlead::FAIRLEAD_ISA
