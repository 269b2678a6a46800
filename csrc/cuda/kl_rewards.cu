// One warp a row. The mask may have holes: each lane remembers its last position inside.
#include "kl_reward.cuh"
#include "launch.cuh"

namespace fairlead {
namespace {

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = 4;

__global__ void kl_rewards_kernel(KlRewardsArguments a) {
    const int lane = threadIdx.x % kWarp;
    const std::int64_t row =
        static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (row >= a.rows) return;  // A whole warp leaves together: the shuffles below stay full.
    const std::int64_t base = row * a.cols;
    long long last = -1;
    for (std::int64_t t = lane; t < a.cols; t += kWarp) {
        const bool inside = a.mask[base + t] != 0;
        a.rewards[base + t] = kl_reward(a, base + t, inside);
        if (inside) last = t;
    }
    const long long mine = last;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const long long other = __shfl_xor_sync(0xffffffffu, last, offset);
        last = other > last ? other : last;
    }
    // The lane that wrote the position adds the score to it.
    if (last >= 0 && mine == last) a.rewards[base + last] += a.scores[row];
}

}  // namespace

const char* kl_rewards_cuda(const KlRewardsArguments& arguments, int device, void* stream) {
    if (arguments.rows == 0 || arguments.cols == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    const std::int64_t blocks = (arguments.rows + kRowsPerBlock - 1) / kRowsPerBlock;
    kl_rewards_kernel<<<static_cast<unsigned>(blocks), kWarp * kRowsPerBlock, 0,
                        static_cast<cudaStream_t>(stream)>>>(arguments);
    return text_of(cudaGetLastError());
}

}  // namespace fairlead
