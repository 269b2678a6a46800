// One warp a row, 32 positions a step, from the end of the response backwards. The recursion
// A_t = delta_t + c * A_{t+1} inside a step is a suffix scan in five shuffles; the step's first
// advantage is carried to the step before it. Reads and writes are coalesced.
#include <cuda_runtime.h>

#include "fairlead/gae.h"

namespace fairlead {
namespace {

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = 4;
constexpr unsigned kAll = 0xffffffffu;

__device__ std::int64_t warp_length(const std::uint8_t* mask, std::int64_t cols, int lane) {
    long long count = 0;
    for (std::int64_t t = lane; t < cols; t += kWarp) count += mask[t] != 0;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        count += __shfl_xor_sync(kAll, count, offset);
    }
    return count;
}

__global__ void gae_kernel(GaeArguments a) {
    const int lane = threadIdx.x % kWarp;
    const std::int64_t row =
        static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (row >= a.rows) return;  // A whole warp leaves together: the shuffles below stay full.
    const std::int64_t base = row * a.cols;
    const std::int64_t length = warp_length(a.mask + base, a.cols, lane);

    // c^(32 - lane): what the advantage just after this step is worth at this lane.
    float carry_weight = a.gamma_lambda;
    for (int i = lane; i < kWarp - 1; ++i) carry_weight *= a.gamma_lambda;

    float carry = 0.0f;
    const std::int64_t steps = (a.cols + kWarp - 1) / kWarp;
    for (std::int64_t step = steps - 1; step >= 0; --step) {
        const std::int64_t t = step * kWarp + lane;
        const bool inside = t < length;
        const float value = inside ? a.values[base + t] : 0.0f;
        const float next = t + 1 < length ? a.values[base + t + 1] : 0.0f;
        const float reward = inside ? a.rewards[base + t] : 0.0f;
        float advantage = reward + a.gamma * next - value;
        float weight = a.gamma_lambda;
        for (int offset = 1; offset < kWarp; offset *= 2) {
            const float later = __shfl_down_sync(kAll, advantage, offset);
            if (lane + offset < kWarp) advantage += weight * later;
            weight *= weight;
        }
        advantage += carry_weight * carry;
        carry = __shfl_sync(kAll, advantage, 0);
        if (t < a.cols) {
            a.advantages[base + t] = inside ? advantage : 0.0f;
            a.returns[base + t] = inside ? advantage + value : 0.0f;
        }
    }
}

}  // namespace

const char* gae_cuda(const GaeArguments& arguments, int device, void* stream) {
    if (arguments.rows == 0 || arguments.cols == 0) return nullptr;
    int before = 0;
    cudaError_t status = cudaGetDevice(&before);
    if (status == cudaSuccess) status = cudaSetDevice(device);
    if (status != cudaSuccess) return cudaGetErrorString(status);
    const std::int64_t blocks = (arguments.rows + kRowsPerBlock - 1) / kRowsPerBlock;
    gae_kernel<<<static_cast<unsigned>(blocks), kWarp * kRowsPerBlock, 0,
                 static_cast<cudaStream_t>(stream)>>>(arguments);
    status = cudaGetLastError();
    const cudaError_t restored = cudaSetDevice(before);
    if (status == cudaSuccess) status = restored;
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace fairlead
