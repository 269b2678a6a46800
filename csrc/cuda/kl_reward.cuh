// One position's reward, as csrc/cpu/kl_rewards.inl forms it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "fairlead/kl_rewards.h"

namespace fairlead {
namespace {

// exp(x) - 1 - x, never negative; kl_rewards.inl says why it is not expm1(x) - x.
__device__ inline float exp_minus_line(float x) {
    if (x > 89.0f) return __int_as_float(0x7f800000) - x;
    const float inner = x < -86.0f ? -86.0f : x;
    const float whole = rintf(inner * 1.44269504f);
    float r = fmaf(whole, -0.693359375f, inner);
    r = fmaf(whole, 2.12194440e-4f, r);
    const float half = __int_as_float((static_cast<int>(whole) + 126) << 23);
    float q = fmaf(r, 1.0f / 40320.0f, 1.0f / 5040.0f);
    q = fmaf(q, r, 1.0f / 720.0f);
    q = fmaf(q, r, 1.0f / 120.0f);
    q = fmaf(q, r, 1.0f / 24.0f);
    q = fmaf(q, r, 1.0f / 6.0f);
    q = fmaf(q, r, 0.5f);
    return 2.0f * fmaf(half * r * r, q, fmaf(half, r, half - 0.5f - 0.5f * x));
}

// Writes the divergence at `at` and returns the reward, without the row's score.
__device__ inline float kl_reward(const KlRewardsArguments& a, std::int64_t at, bool inside) {
    float kl = 0.0f;
    float reward = 0.0f;
    if (inside) {
        if (a.given_kl != nullptr) {
            kl = a.given_kl[at];
        } else {
            kl = a.logprobs[at] - a.ref_logprobs[at];
            if (a.estimator == 2) kl = 0.5f * (kl * kl);
            if (a.estimator == 3) kl = exp_minus_line(-kl);
        }
        // Rounded twice, as torch does: no contraction.
        reward = 0.0f - __fmul_rn(a.beta, kl);
        if (a.token_scores != nullptr) reward += a.token_scores[at];
    }
    a.kl[at] = kl;
    return reward;
}

}  // namespace
}  // namespace fairlead
