#include "gae.cuh"

#include "launch.cuh"

namespace fairlead {
namespace {

struct GivenRewards {
    const float* rewards;
    __device__ float operator()(std::int64_t at, bool inside, bool) const {
        return inside ? rewards[at] : 0.0f;
    }
};

struct Nothing {
    __device__ void operator()(float) const {}
};

__global__ void gae_kernel(GaeArguments a) {
    __shared__ float shared[kMostWarps];
    const Weights weights = weights_of(a.gamma_lambda);
    Nothing nothing;
    for (std::int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        gae_row(a, row, weights, shared, GivenRewards{a.rewards}, nothing);
    }
}

}  // namespace

const char* gae_cuda(const GaeArguments& arguments, int device, void* stream) {
    if (arguments.rows == 0 || arguments.cols == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    constexpr std::int64_t kMostBlocks = 1 << 20;
    const std::int64_t blocks = arguments.rows < kMostBlocks ? arguments.rows : kMostBlocks;
    gae_kernel<<<static_cast<unsigned>(blocks), gae_threads(arguments.cols), 0,
                 static_cast<cudaStream_t>(stream)>>>(arguments);
    return text_of(cudaGetLastError());
}

}  // namespace fairlead
