// PPO's clipped losses over raw pointers, with the sums for metrics and the gradient in one pass.
// The caller has checked what the pointers lead to.
//
//   policy: sum of max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)), ratio = exp(new - old)
//   value:  sum of 0.5 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)
//
// Fidelity items 20 and 22.
#pragma once

#include <cstdint>

namespace fairlead {

constexpr std::int64_t kLossBlock = 16384;  // Positions that are summed on their own.
constexpr int kLossSums = 6;                // Of a block, in the workspace; not all are used.

// `mask` holds one byte a position (0 or 1). Positions outside it have no influence (NaN there
// included); the gradient there is zero.
struct PolicyLossArguments {
    const float* logprobs;
    const float* old_logprobs;
    const float* advantages;
    const std::uint8_t* mask;
    float* loss;      // One float.
    float* sums;      // Weight, approxkl, clipfrac, ratio, ratio squared.
    float* gradient;  // Of the loss with respect to logprobs; nullptr: not wanted.
    double* parts;    // Workspace, kLossSums for each kLossBlock positions begun.
    std::int64_t count;
    float lowest;  // Of the clipped ratio.
    float highest;
    int threads;  // At most so many.
};

struct ValueLossArguments {
    const float* values;
    const float* old_values;
    const float* returns;
    const std::uint8_t* mask;
    float* loss;
    float* sums;      // Weight, clipfrac.
    float* gradient;  // Of the loss with respect to values; nullptr: not wanted.
    double* parts;
    std::int64_t count;
    float clip;
    bool clipped;  // False: `clip` is not used.
    int threads;
};

}  // namespace fairlead
