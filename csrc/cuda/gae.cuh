// One block a row, from its end backwards, kItems positions a thread and a step. The recursion
// A_t = delta_t + c A_{t+1} has one coefficient, so what a position, a thread or a warp passes on
// is its own sum and a power of c times what came in: threads are joined by five shuffles, warps
// through shared memory, and then each thread runs its positions again with what comes in.
#pragma once

#include "fairlead/gae.h"
#include "moments.cuh"

namespace fairlead {
namespace {

constexpr int kItems = 4;

// As many threads as a row of `cols` positions has work for in one step, 256 at most.
inline int gae_threads(std::int64_t cols) {
    int threads = kWarp;
    while (threads < kWarp * kMostWarps && threads * kItems < cols) threads *= 2;
    return threads;
}

// Powers of c = gamma * lambda.
struct Weights {
    float item;   // c
    float lane;   // Over a thread's positions.
    float warp;   // Over a warp's.
    float later;  // Over the positions of the lanes after this one.
};

__device__ inline Weights weights_of(float c) {
    Weights w = {c, c, 1.0f, 1.0f};
    for (int i = 1; i < kItems; ++i) w.lane *= c;
    const int after = kWarp - 1 - static_cast<int>(threadIdx.x) % kWarp;
    for (int i = 0; i < kWarp; ++i) {
        w.warp *= w.lane;
        if (i < after) w.later *= w.lane;
    }
    return w;
}

// `reward(at, inside, last)` gives the reward of a position, `last` at the row's last one of the
// response; it is called once for each position of the row. `take(advantage)` gets the advantages
// of the response. `shared` holds kMostWarps floats. The mask is a prefix, so a position is the
// last where the next one is outside.
template <typename Reward, typename Take>
__device__ inline void gae_row(const GaeArguments& a, std::int64_t row, const Weights& w,
                               float* shared, const Reward& reward, Take& take) {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    const int warps = blockDim.x / kWarp;
    const std::int64_t base = row * a.cols;
    const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kItems;
    float carry = 0.0f;  // The advantage just after this step.
    for (std::int64_t start = (a.cols - 1) / step * step; start >= 0; start -= step) {
        const std::int64_t first = start + threadIdx.x * kItems;
        float values[kItems];
        float deltas[kItems];
        bool inside[kItems + 1];
        for (int i = 0; i <= kItems; ++i) {
            inside[i] = first + i < a.cols && a.mask[base + first + i] != 0;
        }
        for (int i = 0; i < kItems; ++i) {
            const std::int64_t at = base + first + i;
            values[i] = inside[i] ? a.values[at] : 0.0f;
            const float next = inside[i + 1] ? a.values[at + 1] : 0.0f;
            const bool last = inside[i] && !inside[i + 1];
            const float given = first + i < a.cols ? reward(at, inside[i], last) : 0.0f;
            deltas[i] = given + a.gamma * next - values[i];
        }
        float sum = 0.0f;
        for (int i = kItems - 1; i >= 0; --i) sum = deltas[i] + w.item * sum;
        float weight = w.lane;
        for (int offset = 1; offset < kWarp; offset *= 2) {
            const float later = __shfl_down_sync(kAll, sum, offset);
            if (lane + offset < kWarp) sum += weight * later;
            weight *= weight;
        }
        const float after = __shfl_down_sync(kAll, sum, 1);
        __syncthreads();  // The last step's readers are done with `shared`.
        if (lane == 0) shared[warp] = sum;
        __syncthreads();
        float incoming = carry;
        for (int i = warps - 1; i >= 0; --i) {
            if (i == warp) incoming = carry;
            carry = shared[i] + w.warp * carry;
        }
        float running = (lane < kWarp - 1 ? after : 0.0f) + w.later * incoming;
        for (int i = kItems - 1; i >= 0; --i) {
            running = deltas[i] + w.item * running;
            if (first + i >= a.cols) continue;
            if (inside[i]) take(running);
            a.advantages[base + first + i] = inside[i] ? running : 0.0f;
            a.returns[base + first + i] = inside[i] ? running + values[i] : 0.0f;
        }
    }
}

}  // namespace
}  // namespace fairlead
