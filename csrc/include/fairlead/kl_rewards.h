// Per-token rewards over raw pointers; the caller has checked what the pointers lead to.
//
//   kl_t     = k1, k2 or k3 of log pi_t - log pi_ref_t, or a given one
//   reward_t = 0 - beta * kl_t + token_score_t, and the row's score at its last position
//
// Ouyang et al. 2022 (arXiv 2203.02155), equation 2; fidelity items 15, 16, 20, 29.
#pragma once

#include <cstdint>

namespace fairlead {

// Row-major [rows, cols] arrays; `scores` is [rows]. `mask` holds one byte a position (0 or 1).
// Positions outside it have no influence (NaN there included) and are written as zero.
struct KlRewardsArguments {
    const float* logprobs;
    const float* ref_logprobs;
    const float* scores;
    const std::uint8_t* mask;
    const float* given_kl;      // Or nullptr: the estimator's.
    const float* token_scores;  // Or nullptr.
    float* rewards;
    float* kl;
    std::int64_t rows;
    std::int64_t cols;
    float beta;
    int estimator;  // 1, 2 or 3.
    int threads;    // At most so many, on the CPU.
};

// On CUDA device `device`, in `stream` (a cudaStream_t), in one launch. Returns nullptr, or the
// text of the CUDA error.
const char* kl_rewards_cuda(const KlRewardsArguments& arguments, int device, void* stream);

}  // namespace fairlead
