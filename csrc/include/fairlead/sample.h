// The pinned sampler over raw pointers: temperature, top-k, top-p and one draw a row, in the order
// and with the sums that kernels/fairlead_kernels/sample.py writes down. The caller has checked
// shapes, dtypes, devices and strides. Fidelity items 14 and 33.
#pragma once

#include <cstdint>

#include "fairlead/float_type.h"

namespace fairlead {

constexpr int kSampleChunk = 1024;

// `logits` is [rows, cols] with unit stride along a row and `stride` elements between rows, which
// may be 0; the others are [rows]. `top_k` of 0 and `top_p` of 1 cut nothing off; `temperature` of
// 0 takes the largest logit.
struct SampleArguments {
    const void* logits;
    FloatType type;
    const double* u;
    std::int64_t* tokens;
    float* logprobs;
    float* entropies;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t stride;
    float temperature;
    std::int64_t top_k;
    double top_p;
    int threads;  // At most so many, on the CPU.
};

// On CUDA device `device`, in `stream` (a cudaStream_t), in one launch, without scratch memory.
// Returns nullptr, or the text of the CUDA error.
const char* sample_cuda(const SampleArguments& arguments, int device, void* stream);

}  // namespace fairlead
