#include "fairlead/philox.h"

#include "launch.cuh"

namespace fairlead {
namespace {

constexpr int kThreads = 256;

__global__ void philox_kernel(PhiloxArguments a) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= a.count) return;
    a.uniform[i] = philox_uniform_at(a.seed, a.iteration, static_cast<std::uint64_t>(a.sequence[i]),
                                     static_cast<std::uint32_t>(a.position[i]));
}

}  // namespace

const char* philox_uniform_cuda(const PhiloxArguments& arguments, int device, void* stream) {
    if (arguments.count == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    const std::int64_t blocks = (arguments.count + kThreads - 1) / kThreads;
    philox_kernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                    static_cast<cudaStream_t>(stream)>>>(arguments);
    return text_of(cudaGetLastError());
}

}  // namespace fairlead
