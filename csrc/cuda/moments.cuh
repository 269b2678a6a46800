// Mean and variance without atomics: what is added to what depends on the shape and on the number
// of threads a block alone, so the bits are the same in every run. All of it is in double.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "fairlead/whiten.h"

namespace fairlead {
namespace {

constexpr int kWarp = 32;
constexpr int kMostWarps = 8;
constexpr unsigned kAll = 0xffffffffu;

// A thread's own elements, about the first of them: nothing cancels, whatever the mean.
struct Gathered {
    double count = 0.0;
    double pivot = 0.0;
    double sum = 0.0;
    double squares = 0.0;

    __device__ void add(float x) {
        if (count == 0.0) pivot = x;
        const double away = x - pivot;
        count += 1.0;
        sum += away;
        squares += away * away;
    }
    __device__ Moments moments() const {
        if (count == 0.0) return {0.0, 0.0, 0.0};
        const double shift = sum / count;
        return {count, pivot + shift, squares - count * shift * shift};
    }
};

__device__ inline Moments merge(const Moments& a, const Moments& b) {
    if (b.count == 0.0) return a;
    if (a.count == 0.0) return b;
    const double count = a.count + b.count;
    const double apart = b.mean - a.mean;
    return {count, a.mean + apart * (b.count / count),
            a.squares + b.squares + apart * apart * (a.count * b.count / count)};
}

// Those of all threads of the block, in every thread. `shared` holds kMostWarps.
__device__ inline Moments block_moments(Moments mine, Moments* shared) {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const Moments other = {__shfl_down_sync(kAll, mine.count, offset),
                               __shfl_down_sync(kAll, mine.mean, offset),
                               __shfl_down_sync(kAll, mine.squares, offset)};
        mine = merge(mine, other);
    }
    __syncthreads();  // The last call's readers are done with `shared`.
    if (lane == 0) shared[warp] = mine;
    __syncthreads();
    Moments all = shared[0];
    for (int i = 1; i < static_cast<int>(blockDim.x) / kWarp; ++i) all = merge(all, shared[i]);
    return all;
}

// The second phase of whitening: every block adds up all parts, and then handles its share of the
// elements.
__device__ inline void whiten_all(const WhitenArguments& a, std::int64_t parts, Moments* shared) {
    Moments mine = {0.0, 0.0, 0.0};
    for (std::int64_t i = threadIdx.x; i < parts; i += blockDim.x) mine = merge(mine, a.parts[i]);
    const Moments all = block_moments(mine, shared);
    const double count = all.count > 1.0 ? all.count : 1.0;
    const float mean = static_cast<float>(all.mean);
    const float rest = static_cast<float>(all.mean - mean);
    const float scale = static_cast<float>(1.0 / sqrt(all.squares / count + a.eps));
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
         i < a.count; i += step) {
        float value = 0.0f;
        if (a.mask[i] != 0) {
            value = (a.x[i] - mean - rest) * scale;
            if (!a.shift_mean) value += mean;
        }
        a.result[i] = value;
    }
}

}  // namespace
}  // namespace fairlead
