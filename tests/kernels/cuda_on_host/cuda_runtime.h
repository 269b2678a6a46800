// CUDA's runtime and device functions as far as csrc/cuda uses them, on one thread of the host: for
// tests where there is no GPU. A device thread is a fiber that runs until it has to wait for others
// of its warp, block or grid; a kernel whose threads wait for what never comes ends with an error.
//
// What it does not show: speed, the memory model (a warp runs as far ahead as it can, the first one
// or the last one first, as told), launches that a device would refuse, and rounding of the
// device's own exp and log.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t {
    cudaSuccess,
    cudaErrorCooperativeLaunchTooLarge,
    cudaErrorDeadlock,
    cudaErrorEndless
};
enum cudaDeviceAttr { cudaDevAttrCooperativeLaunch, cudaDevAttrMultiProcessorCount };
using cudaStream_t = void*;

namespace host {

// What a test chooses (module.cpp): whether grids can meet ("yes", "no", or "too large" where a
// launch that should is refused), and in which order threads take turns.
inline std::string cooperative = "yes";
inline bool upwards = true;
inline cudaError_t error = cudaSuccess;

constexpr int kWarpSize = 32;
constexpr std::size_t kStack = 64 << 10;
constexpr std::uint64_t kMostSteps = 10'000'000;  // Of a block, ten times what any kernel takes.
constexpr std::size_t kMostBytes = 48 << 10;  // Of dynamic shared memory, as a device's default.

// Threads that have to be somewhere together before any goes on.
struct Meeting {
    unsigned expected = 0;
    unsigned there = 0;
    unsigned turn = 0;
};

struct Fiber {
    ucontext_t start;
    jmp_buf state;
    bool started = false;
    bool finished = false;
    unsigned thread = 0;
    unsigned block = 0;  // Of those that run at the same time.
};

struct Block {
    Meeting all;
    std::vector<Meeting> warps;
    std::vector<std::uint64_t> words;  // What a warp's lanes show one another, twice 32 a warp.
    std::map<int, std::vector<char>> shared;
    std::size_t dynamic = 0;  // Bytes that the launch asks for.
};

struct Grid {
    unsigned first = 0;  // The index of the first block.
    Meeting all;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    std::function<void()> kernel;
    Fiber* running = nullptr;
    jmp_buf scheduler;
    std::uint64_t steps = 0;  // Arrivals and ends: a round without one is a deadlock.
    std::uint64_t most_steps = 0;
};

inline Grid* grid = nullptr;

inline Block& block() { return grid->blocks[grid->running->block]; }

inline void yield() {
    if (_setjmp(grid->running->state) == 0) _longjmp(grid->scheduler, 1);
}

inline void meet(Meeting& meeting) {
    const unsigned turn = meeting.turn;
    ++grid->steps;
    if (++meeting.there == meeting.expected) {
        meeting.there = 0;
        ++meeting.turn;
        return;
    }
    while (meeting.turn == turn) yield();
}

// One less is waited for: it has returned. Those who wait for it alone go on.
inline void leave(Meeting& meeting) {
    --meeting.expected;
    if (meeting.there > 0 && meeting.there == meeting.expected) {
        meeting.there = 0;
        ++meeting.turn;
    }
}

inline void run_fiber() {
    grid->kernel();
    Fiber& self = *grid->running;
    self.finished = true;
    ++grid->steps;
    // Not its warp: a shuffle names the lanes that take part, and one that is gone is an error.
    leave(block().all);
    leave(grid->all);
    _longjmp(grid->scheduler, 1);
}

// One a fiber, for all launches.
inline char* stack(std::size_t fiber) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= fiber) stacks.emplace_back(new char[kStack]);
    return stacks[fiber].get();
}

inline void resume(Fiber& fiber) {
    grid->running = &fiber;
    threadIdx = dim3(fiber.thread);
    blockIdx = dim3(grid->first + fiber.block);
    if (_setjmp(grid->scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stack(static_cast<std::size_t>(&fiber - grid->fibers.data()));
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_fiber, 0);
    setcontext(&fiber.start);
}

// As far ahead of the others as a warp can get; returns how many of its threads have ended.
inline std::size_t run_warp(std::size_t warp) {
    std::size_t ended = 0;
    std::uint64_t before = 0;
    do {
        before = grid->steps;
        for (int i = 0; i < kWarpSize; ++i) {
            const int place = upwards ? i : kWarpSize - 1 - i;
            Fiber& fiber = grid->fibers[warp * kWarpSize + static_cast<std::size_t>(place)];
            if (fiber.finished) continue;
            resume(fiber);
            if (fiber.finished) ++ended;
        }
    } while (grid->steps != before && grid->steps < grid->most_steps);
    return ended;
}

// Blocks [first, last) at the same time.
inline void run_blocks(unsigned first, unsigned last, std::size_t bytes,
                       const std::function<void()>& kernel) {
    const unsigned threads = blockDim.x, count = last - first;
    if (threads % kWarpSize != 0) std::abort();  // no kernel here has a part of a warp
    Grid now;
    now.first = first;
    now.most_steps = kMostSteps * count;
    now.kernel = kernel;
    now.all.expected = threads * count;
    now.blocks.resize(count);
    for (Block& one : now.blocks) {
        one.all.expected = threads;
        one.warps.resize(threads / kWarpSize);
        for (Meeting& warp : one.warps) warp.expected = kWarpSize;
        one.words.assign(one.warps.size() * 2 * kWarpSize, 0);
        one.dynamic = bytes;
    }
    now.fibers.resize(static_cast<std::size_t>(threads) * count);
    for (std::size_t i = 0; i < now.fibers.size(); ++i) {
        now.fibers[i].thread = static_cast<unsigned>(i % threads);
        now.fibers[i].block = static_cast<unsigned>(i / threads);
    }
    grid = &now;
    const std::size_t warps = now.fibers.size() / kWarpSize;
    std::size_t left = now.fibers.size();
    while (left > 0) {
        const std::uint64_t before = now.steps;
        for (std::size_t i = 0; i < warps; ++i) {
            left -= run_warp(upwards ? i : warps - 1 - i);
        }
        if (now.steps == before) error = cudaErrorDeadlock;
        if (now.steps >= now.most_steps) error = cudaErrorEndless;
        if (error != cudaSuccess) break;
    }
    grid = nullptr;
}

inline void launch(dim3 blocks, dim3 threads, std::size_t bytes, cudaStream_t,
                   const std::function<void()>& kernel) {
    gridDim = blocks;
    blockDim = threads;
    if (bytes > kMostBytes) std::abort();
    for (unsigned i = 0; i < blocks.x && error == cudaSuccess; ++i) {
        run_blocks(i, i + 1, bytes, kernel);
    }
}

template <typename Arguments>
cudaError_t launch_cooperative(void (*kernel)(Arguments), dim3 blocks, dim3 threads,
                               void** parameters, std::size_t bytes, cudaStream_t) {
    if (cooperative == "too large") return cudaErrorCooperativeLaunchTooLarge;
    gridDim = blocks;
    blockDim = threads;
    const Arguments arguments = *static_cast<Arguments*>(parameters[0]);
    run_blocks(0, blocks.x, bytes, [kernel, &arguments] { kernel(arguments); });
    return error;
}

// A block's shared memory by number, filled with what no kernel reads as a good value.
inline void* shared(int number, std::size_t bytes) {
    std::vector<char>& memory = block().shared[number];
    if (memory.empty()) memory.assign(bytes, static_cast<char>(0xff));
    return memory.data();
}
template <typename T>
T& shared(int number) {
    return *static_cast<T*>(shared(number, sizeof(T)));
}
template <typename T>
T* dynamic_shared(int number) {
    return static_cast<T*>(shared(number, block().dynamic));
}

inline int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }

// What lane `from` of this thread's warp showed; everybody shows something first.
template <typename T>
T shown(T mine, int from) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t), "a shuffle is of 64 bits at most");
    const std::size_t warp = threadIdx.x / kWarpSize;
    Meeting& meeting = block().warps[warp];
    // The next exchange uses the other half: who is late still reads this one.
    std::uint64_t* words = &block().words[(2 * warp + meeting.turn % 2) * kWarpSize];
    std::memcpy(&words[lane()], &mine, sizeof(T));
    meet(meeting);
    T theirs;
    std::memcpy(&theirs, &words[from], sizeof(T));
    return theirs;
}

template <typename To, typename From>
To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To result;
    std::memcpy(&result, &x, sizeof(To));
    return result;
}

}  // namespace host

inline void __syncthreads() { host::meet(host::block().all); }

template <typename T>
T __shfl_sync(unsigned, T x, int from) {
    return host::shown(x, from);
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask) {
    return host::shown(x, host::lane() ^ mask);
}
template <typename T>
T __shfl_down_sync(unsigned, T x, int offset) {
    const int from = host::lane() + offset;
    return host::shown(x, from < host::kWarpSize ? from : host::lane());
}
template <typename T>
T __shfl_up_sync(unsigned, T x, int offset) {
    const int from = host::lane() - offset;
    return host::shown(x, from >= 0 ? from : host::lane());
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
    unsigned votes = vote ? 1u << host::lane() : 0u;
    for (int offset = 1; offset < host::kWarpSize; offset *= 2) {
        votes |= __shfl_xor_sync(mask, votes, offset);
    }
    return votes;
}

inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline float __int_as_float(int x) { return host::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return host::same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return host::same_bits<unsigned>(x); }
// Not inlined: no addition after it becomes one operation with it.
__attribute__((noinline)) inline float __fmul_rn(float a, float b) { return a * b; }
inline float __double2float_rd(double x) {
    const float near = static_cast<float>(x);
    return near > x ? std::nextafterf(near, -INFINITY) : near;
}

inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() {
    const cudaError_t last = host::error;
    host::error = cudaSuccess;
    return last;
}
inline const char* cudaGetErrorString(cudaError_t status) {
    if (status == cudaErrorDeadlock) return "threads wait for others that do not come";
    return status == cudaErrorEndless ? "a kernel does not end" : "refused";
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrCooperativeLaunch ? host::cooperative != "no" : 1;
    return cudaSuccess;
}
// Few, so that a grid has more to do than one round of blocks.
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, std::size_t) {
    *blocks = 3;
    return cudaSuccess;
}
