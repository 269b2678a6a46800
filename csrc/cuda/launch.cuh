// What the host functions share: the device for the time of a launch, and kernels of two phases.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fairlead {
namespace {

// The caller's device is current again when it goes.
class OnDevice {
  public:
    explicit OnDevice(int device) {
        status_ = cudaGetDevice(&before_);
        if (status_ == cudaSuccess) status_ = cudaSetDevice(device);
    }
    ~OnDevice() { cudaSetDevice(before_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    cudaError_t status() const { return status_; }

  private:
    int before_ = 0;
    cudaError_t status_;
};

inline const char* text_of(cudaError_t status) {
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

// How many blocks of `kernel` the device runs at a time; 0 where it has no cooperative launch.
template <typename Kernel>
cudaError_t resident_blocks(Kernel kernel, int threads, int device, std::int64_t* blocks) {
    *blocks = 0;
    int cooperative = 0;
    cudaError_t status = cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
    if (status != cudaSuccess || cooperative == 0) return status;
    int processors = 0;
    status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status != cudaSuccess) return status;
    int each = 0;
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, 0);
    *blocks = static_cast<std::int64_t>(each) * processors;
    return status;
}

// Runs `both`, whose blocks meet between its phases, in one cooperative launch; where that cannot
// be, `first` and `second` one after the other. Each strides over `units` of work, whatever the
// number of blocks, so that the result does not depend on it.
template <typename Arguments>
cudaError_t launch_phases(void (*both)(Arguments), void (*first)(Arguments),
                          void (*second)(Arguments), const Arguments& arguments, std::int64_t units,
                          int threads, int device, cudaStream_t stream) {
    constexpr std::int64_t kMostBlocks = 1 << 20;
    std::int64_t resident = 0;
    cudaError_t status = resident_blocks(both, threads, device, &resident);
    if (status != cudaSuccess) return status;
    if (resident > 0) {
        Arguments copy = arguments;
        void* parameters[] = {&copy};
        const auto blocks = static_cast<unsigned>(units < resident ? units : resident);
        status = cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(both), dim3(blocks),
                                             dim3(static_cast<unsigned>(threads)), parameters, 0,
                                             stream);
        // Others may hold a part of the device.
        if (status != cudaErrorCooperativeLaunchTooLarge) return status;
        cudaGetLastError();
    }
    const auto blocks = static_cast<unsigned>(units < kMostBlocks ? units : kMostBlocks);
    first<<<blocks, static_cast<unsigned>(threads), 0, stream>>>(arguments);
    status = cudaGetLastError();
    if (status != cudaSuccess) return status;
    second<<<blocks, static_cast<unsigned>(threads), 0, stream>>>(arguments);
    return cudaGetLastError();
}

}  // namespace
}  // namespace fairlead
