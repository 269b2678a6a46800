// Every CPU kernel, for one instruction set, and the table that dispatch.cpp picks.
#include "fairlead/cpu.h"
#include "simd.inl"
//
#include "math.inl"
//
#include "half.inl"
//
#include "gae.inl"
#include "logprobs.inl"

namespace fairlead::FAIRLEAD_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {gae, logprobs_forward, logprobs_backward};

}  // namespace fairlead::FAIRLEAD_ISA
