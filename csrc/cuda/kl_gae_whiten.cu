// Phase one, a block a row: rewards, the recursion over them, and the row's moments. Phase two: the
// sum of all rows' moments, and the advantages whitened where they stand. In a cooperative launch
// the grid meets in between.
#include "fairlead/kl_gae_whiten.h"

#include <cooperative_groups.h>

#include "gae.cuh"
#include "kl_reward.cuh"
#include "launch.cuh"

namespace fairlead {
namespace {

// Four blocks of the largest size a processor: a grid of 1,024 rows then takes two turns on a large
// device.
constexpr int kMostThreads = kWarp * kMostWarps;
constexpr int kBlocksEach = 4;

struct KlRewards {
    const KlRewardsArguments& a;
    std::int64_t row;

    __device__ float operator()(std::int64_t at, bool inside, bool last) const {
        float reward = kl_reward(a, at, inside);
        if (last) reward += a.scores[row];
        a.rewards[at] = reward;
        return reward;
    }
};

struct Gather {
    Gathered gathered;
    __device__ void operator()(float advantage) { gathered.add(advantage); }
};

struct Shared {
    float warps[kMostWarps];
    Moments moments[kMostWarps];
};

__device__ void advantages_of_rows(const KlGaeWhitenArguments& a, Shared& shared) {
    const Weights weights = weights_of(a.gae.gamma_lambda);
    for (std::int64_t row = blockIdx.x; row < a.gae.rows; row += gridDim.x) {
        Gather mine;
        gae_row(a.gae, row, weights, shared.warps, KlRewards{a.kl, row}, mine);
        const Moments all = block_moments(mine.gathered.moments(), shared.moments);
        if (threadIdx.x == 0) a.whiten.parts[row] = all;
    }
}

__global__ void __launch_bounds__(kMostThreads, kBlocksEach)
    kl_gae_whiten_first(KlGaeWhitenArguments a) {
    __shared__ Shared shared;
    advantages_of_rows(a, shared);
}

__global__ void kl_gae_whiten_second(KlGaeWhitenArguments a) {
    __shared__ Shared shared;
    whiten_all(a.whiten, a.gae.rows, shared.moments);
}

__global__ void __launch_bounds__(kMostThreads, kBlocksEach)
    kl_gae_whiten_both(KlGaeWhitenArguments a) {
    __shared__ Shared shared;
    advantages_of_rows(a, shared);
    cooperative_groups::this_grid().sync();
    whiten_all(a.whiten, a.gae.rows, shared.moments);
}

}  // namespace

const char* kl_gae_whiten_cuda(const KlGaeWhitenArguments& arguments, int device, void* stream) {
    const std::int64_t rows = arguments.gae.rows;
    if (rows == 0 || arguments.gae.cols == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    return text_of(launch_phases(kl_gae_whiten_both, kl_gae_whiten_first, kl_gae_whiten_second,
                                 arguments, rows, gae_threads(arguments.gae.cols), device,
                                 static_cast<cudaStream_t>(stream)));
}

}  // namespace fairlead
