// Kernels with a fault each: what the host's device has to notice (test_cuda_on_host.py).
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 64;

struct Turned {
    float* x;
    bool meets;
};

__global__ void turned_around(Turned a) {
    __shared__ float shared[kThreads];
    shared[threadIdx.x] = a.x[threadIdx.x];
    if (a.meets) __syncthreads();
    a.x[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void shuffle_of_one_lane(float* x) {
    if (threadIdx.x == 0) x[0] = __shfl_down_sync(0xffffffffu, x[0], 1);
}

__global__ void no_end(float* x) {
    while (x[0] > 0.0f) __syncthreads();
}

const char* text_of(cudaError_t status) {
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace

const char* run_turned_around(std::uintptr_t x, bool meets) {
    const Turned a = {reinterpret_cast<float*>(x), meets};
    turned_around<<<1, kThreads, 0, nullptr>>>(a);
    return text_of(cudaGetLastError());
}

const char* run_shuffle_of_one_lane(std::uintptr_t address) {
    auto* x = reinterpret_cast<float*>(address);
    shuffle_of_one_lane<<<1, kThreads, 0, nullptr>>>(x);
    return text_of(cudaGetLastError());
}

const char* run_no_end(std::uintptr_t address) {
    auto* x = reinterpret_cast<float*>(address);
    no_end<<<1, kThreads, 0, nullptr>>>(x);
    return text_of(cudaGetLastError());
}
