// Generalised advantage estimation over raw pointers. No torch, no Python: the caller has checked
// shapes, dtypes, devices and contiguity before a pointer comes here.
//
//   delta_t = r_t + gamma * V_{t+1} - V_t        V = 0 past the last response token
//   A_t     = delta_t + gamma * lambda * A_{t+1}
//   R_t     = A_t + V_t
//
// Schulman et al. 2016 (arXiv 1506.02438), equations 11 and 16; fidelity items 20, 21, 28, 29.
#pragma once

#include <cstdint>

namespace fairlead {

// Row-major [rows, cols] arrays. `mask` holds one byte a position (0 or 1) and is a prefix of each
// row: its count is the row's length. Positions past the length are never used in arithmetic (NaN
// there has no influence) and are written as zero.
struct GaeArguments {
    const float* rewards;
    const float* values;
    const std::uint8_t* mask;
    float* advantages;
    float* returns;
    std::int64_t rows;
    std::int64_t cols;
    float gamma;
    float gamma_lambda;
    int threads;  // At most so many, on the CPU.
};

// On CUDA device `device`, in `stream` (a cudaStream_t), in one launch. Returns nullptr, or the
// text of the CUDA error.
const char* gae_cuda(const GaeArguments& arguments, int device, void* stream);

}  // namespace fairlead
