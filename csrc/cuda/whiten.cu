// Phase one: the moments of each kMomentsBlock positions. Phase two: the sum of them, and the
// result. In a cooperative launch the grid meets in between.
#include <cooperative_groups.h>

#include "launch.cuh"
#include "moments.cuh"

namespace fairlead {
namespace {

constexpr int kThreads = kWarp * kMostWarps;

__device__ std::int64_t parts_of(const WhitenArguments& a) {
    return (a.count + kMomentsBlock - 1) / kMomentsBlock;
}

__device__ void gather_parts(const WhitenArguments& a, Moments* shared) {
    for (std::int64_t part = blockIdx.x; part < parts_of(a); part += gridDim.x) {
        const std::int64_t begin = part * kMomentsBlock;
        const std::int64_t last = begin + kMomentsBlock;
        const std::int64_t end = last < a.count ? last : a.count;
        Gathered mine;
        for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
            if (a.mask[i] != 0) mine.add(a.x[i]);
        }
        const Moments all = block_moments(mine.moments(), shared);
        if (threadIdx.x == 0) a.parts[part] = all;
    }
}

__global__ void whiten_first(WhitenArguments a) {
    __shared__ Moments shared[kMostWarps];
    gather_parts(a, shared);
}

__global__ void whiten_second(WhitenArguments a) {
    __shared__ Moments shared[kMostWarps];
    whiten_all(a, parts_of(a), shared);
}

__global__ void whiten_both(WhitenArguments a) {
    __shared__ Moments shared[kMostWarps];
    gather_parts(a, shared);
    cooperative_groups::this_grid().sync();
    whiten_all(a, parts_of(a), shared);
}

}  // namespace

const char* whiten_cuda(const WhitenArguments& arguments, int device, void* stream) {
    if (arguments.count == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    const std::int64_t parts = (arguments.count + kMomentsBlock - 1) / kMomentsBlock;
    return text_of(launch_phases(whiten_both, whiten_first, whiten_second, arguments, parts,
                                 kThreads, device, static_cast<cudaStream_t>(stream)));
}

}  // namespace fairlead
