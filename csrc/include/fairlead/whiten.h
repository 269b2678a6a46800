// Masked whitening over raw pointers; the caller has checked what the pointers lead to.
//
//   (x - mean) / sqrt(var + eps)      mean, biased variance: of the masked-in positions
//
// Fidelity items 18, 19, 20.
#pragma once

#include <cstdint>

namespace fairlead {

// The moments of a part of the data, sums taken about its mean.
struct Moments {
    double count;
    double mean;
    double squares;
};

constexpr std::int64_t kMomentsBlock = 4096;  // Positions a part.

// `mask` holds one byte a position (0 or 1). Positions outside it have no influence (NaN there
// included) and are written as zero. `result` may be `x`.
struct WhitenArguments {
    const float* x;
    const std::uint8_t* mask;
    float* result;
    Moments* parts;  // Workspace, one for each kMomentsBlock positions begun.
    std::int64_t count;
    bool shift_mean;  // False: the mean is added back.
    double eps;
    int threads;  // At most so many, on the CPU.
};

// On CUDA device `device`, in `stream` (a cudaStream_t): one cooperative launch, or two launches
// where the device does not have those or not all blocks fit. Returns nullptr, or the text of the
// CUDA error.
const char* whiten_cuda(const WhitenArguments& arguments, int device, void* stream);

}  // namespace fairlead
