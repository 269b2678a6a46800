// One block a row. Without truncation the row is read once: a warp takes a chunk of 1,024 into
// registers and sums it relative to the chunk's own maximum; the block then scales the sums, one
// warp finds the chunk and reads it again. A threshold of top-k or top-p is found by a search over
// the ordered bits of the logits, 15 pivots a reading, at most 8 readings, without atomics: the
// result does not depend on the order in which anything runs.
#include <cfloat>
#include <climits>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "fairlead/sample.h"
#include "launch.cuh"

namespace fairlead {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPivots = 15;
constexpr unsigned kAll = 0xffffffffu;

struct Bfloat16 {
    std::uint16_t bits;
};

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(Bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// Bits that are ordered as the floats are, the two zeros equal.
__device__ unsigned key_of(float x) {
    const unsigned bits = x == 0.0f ? 0u : __float_as_uint(x);
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ float value_of(unsigned key) {
    return __uint_as_float((key >> 31) != 0 ? key ^ 0x80000000u : ~key);
}

template <typename T>
__device__ T warp_sum(T x) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
    return x;
}

__device__ float warp_max(float x) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(kAll, x, offset));
    }
    return x;
}

// Every thread of the block gets the result. `shared` has a place for each warp.
__device__ double block_sum(double x, double* shared) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    double sum = 0.0;
    for (int i = 0; i < kWarps; ++i) sum += shared[i];
    return sum;
}

__device__ float block_max(float x, double* shared) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    double most = shared[0];
    for (int i = 1; i < kWarps; ++i) most = fmax(most, shared[i]);
    return static_cast<float>(most);
}

template <typename T>
struct Row {
    const T* data;
    std::int64_t cols;
    float temperature;
    float least;  // What top-k and top-p leave; -inf is never kept.

    __device__ float at(std::int64_t i) const { return i < cols ? widen(data[i]) : -INFINITY; }

    // z = (x - largest) / temperature and e^z, 0 where a token is not kept. NaN is kept.
    __device__ bool weigh(float x, float largest, float& z, float& weight) const {
        z = (x - largest) / temperature;
        const bool kept = !(x < least) && !(z < -FLT_MAX);
        z = kept ? z : 0.0f;
        weight = kept ? expf(z) : 0.0f;
        return kept;
    }
};

// The largest value such that the kept tokens from it up weigh at least `target`: their count
// where `counts`, else their mass. `row.least` where no value reaches it.
template <typename T>
__device__ float threshold(const Row<T>& row, float largest, bool counts, double target,
                           double (*shared)[kPivots]) {
    unsigned long long low = key_of(row.least);
    unsigned long long high = key_of(largest) + 1ull;
    while (high - low > 1) {
        const unsigned long long step = (high - low + kPivots) / (kPivots + 1);
        float pivots[kPivots];
        double sums[kPivots];
#pragma unroll
        for (int p = 0; p < kPivots; ++p) {
            const unsigned long long key = low + (p + 1) * step;
            // Nothing is as large as NaN.
            pivots[p] = key < high ? value_of(static_cast<unsigned>(key)) : NAN;
            sums[p] = 0.0;
        }
        for (std::int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
            const float x = widen(row.data[i]);
            float z, weight = 1.0f;
            if (!counts) row.weigh(x, largest, z, weight);
#pragma unroll
            for (int p = 0; p < kPivots; ++p) sums[p] += x >= pivots[p] ? weight : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < kPivots; ++p) {
            const double sum = warp_sum(sums[p]);
            if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp][p] = sum;
        }
        __syncthreads();
        int reached = 0;
        for (int p = 0; p < kPivots; ++p) {
            double sum = 0.0;
            for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp][p];
            if (sum >= target) reached = p + 1;
        }
        low += reached * step;
        high = low + step < high ? low + step : high;
    }
    return value_of(static_cast<unsigned>(low));
}

struct Found {
    int index;
    double before;  // The running sum before it.
};

// By one warp: the first index whose running sum exceeds the target, the last with a positive
// weight where rounding leaves none. A lane adds up one contiguous part.
template <typename Weight>
__device__ Found first_above(int count, double target, Weight weight) {
    const int lane = threadIdx.x % kWarp;
    const int part = (count + kWarp - 1) / kWarp;
    const int begin = lane * part;
    const int end = begin + part < count ? begin + part : count;
    double sum = 0.0;
    for (int i = begin; i < end; ++i) sum += weight(i);
    double running = sum;
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const double lower = __shfl_up_sync(kAll, running, offset);
        if (lane >= offset) running += lower;
    }
    running = __shfl_up_sync(kAll, running, 1);
    if (lane == 0) running = 0.0;
    int first = INT_MAX, last = -1;
    double first_before = 0.0, last_before = 0.0;
    for (int i = begin; i < end; ++i) {
        const double w = weight(i);
        if (!(w > 0.0)) continue;
        if (first == INT_MAX && running + w > target) {
            first = i;
            first_before = running;
        }
        last = i;
        last_before = running;
        running += w;
    }
    const unsigned hit = __ballot_sync(kAll, first != INT_MAX);
    const unsigned positive = __ballot_sync(kAll, last >= 0);
    if (positive == 0) return {0, 0.0};
    // Parts follow the lanes: the lowest lane has the first, the highest the last.
    const int owner = hit != 0 ? __ffs(hit) - 1 : kWarp - 1 - __clz(positive);
    return {__shfl_sync(kAll, hit != 0 ? first : last, owner),
            __shfl_sync(kAll, hit != 0 ? first_before : last_before, owner)};
}

// A chunk's largest kept logit, and its sums relative to that.
struct Chunk {
    double weight;
    double weighted_z;
    float largest;
    int kept;
};

template <typename T>
__device__ Chunk sum_chunk(const Row<T>& row, std::int64_t chunk) {
    constexpr int kEach = kSampleChunk / kWarp;
    const std::int64_t start = chunk * kSampleChunk + threadIdx.x % kWarp;
    float x[kEach];
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = row.at(start + i * kWarp);
#pragma unroll
    for (int i = 0; i < kEach; ++i) largest = fmaxf(largest, x[i]);
    largest = warp_max(largest);
    if (largest == -INFINITY) largest = 0.0f;
    Chunk result = {0.0, 0.0, largest, 0};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        float z, weight;
        result.kept += row.weigh(x[i], largest, z, weight) ? 1 : 0;
        result.weight += weight;
        result.weighted_z += static_cast<double>(weight) * z;
    }
    result.weight = warp_sum(result.weight);
    result.weighted_z = warp_sum(result.weighted_z);
    result.kept = warp_sum(result.kept);
    return result;
}

// Where top-k and top-p cut the row off.
template <typename T>
__device__ float least_kept(Row<T> row, float largest, std::int64_t top_k, double top_p,
                            double (*shared)[kPivots]) {
    if (top_k > 0 && top_k < row.cols) {
        row.least = threshold(row, largest, true, static_cast<double>(top_k), shared);
    }
    if (top_p < 1.0) {
        double sum = 0.0;
        for (std::int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
            float z, weight;
            row.weigh(widen(row.data[i]), largest, z, weight);
            sum += weight;
        }
        sum = block_sum(sum, shared[0]);
        row.least = threshold(row, largest, false, top_p * sum, shared);
    }
    return row.least;
}

// By the first warp, from the chunks' sums relative to the row's largest logit.
template <typename T>
__device__ void draw(const SampleArguments& a, const Row<T>& row, const Chunk* chunks, int count,
                     float largest) {
    const int lane = threadIdx.x % kWarp;
    double weight = 0.0, weighted_z = 0.0;
    long long kept = 0;
    for (int i = lane; i < count; i += kWarp) {
        weight += chunks[i].weight;
        weighted_z += chunks[i].weighted_z;
        kept += chunks[i].kept;
    }
    weight = warp_sum(weight);
    weighted_z = warp_sum(weighted_z);
    kept = warp_sum(kept);
    const bool greedy = a.temperature == 0.0f;
    // NaN with a NaN or +inf in the row, 0 without a finite logit.
    if (!(weight > 0.0)) {
        if (lane == 0) {
            a.tokens[blockIdx.x] = 0;
            a.logprobs[blockIdx.x] = NAN;
            a.entropies[blockIdx.x] = NAN;
        }
        return;
    }
    const double target = greedy ? 0.0 : a.u[blockIdx.x] * weight;
    const Found chunk = first_above(count, target, [&](int i) { return chunks[i].weight; });
    const std::int64_t start = static_cast<std::int64_t>(chunk.index) * kSampleChunk;
    const Found token = first_above(kSampleChunk, target - chunk.before, [&](int i) {
        float z, w;
        row.weigh(row.at(start + i), largest, z, w);
        return static_cast<double>(w);
    });
    if (lane != 0) return;
    const std::int64_t drawn = start + token.index;
    const double log_weight = log(weight);
    const double z = (row.at(drawn) - largest) / row.temperature;
    const double most = log(static_cast<double>(kept));
    const float entropy = static_cast<float>(log_weight - weighted_z / weight);
    a.tokens[blockIdx.x] = drawn;
    a.logprobs[blockIdx.x] = greedy ? 0.0f : static_cast<float>(z - log_weight);
    a.entropies[blockIdx.x] = greedy ? 0.0f : fminf(entropy, __double2float_rd(most));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) sample_kernel(SampleArguments a) {
    extern __shared__ Chunk chunks[];
    __shared__ double shared[kWarps][kPivots];
    const int count = static_cast<int>((a.cols + kSampleChunk - 1) / kSampleChunk);
    Row<T> row = {static_cast<const T*>(a.logits) + blockIdx.x * a.stride, a.cols, a.temperature,
                  -FLT_MAX};
    const bool greedy = a.temperature == 0.0f;
    if (greedy || a.top_k > 0 || a.top_p < 1.0) {
        float largest = -INFINITY;
        for (std::int64_t i = threadIdx.x; i < a.cols; i += kThreads) {
            largest = fmaxf(largest, widen(row.data[i]));
        }
        largest = block_max(largest, shared[0]);
        if (greedy) {
            // As at a temperature so low that nothing but the largest has a weight.
            row.temperature = 1.0f;
            row.least = fmaxf(largest, -FLT_MAX);
        } else if (largest > -INFINITY && largest < INFINITY) {
            row.least = least_kept(row, largest, a.top_k, a.top_p, shared);
        }
    }
    float largest = -INFINITY;
    for (int i = threadIdx.x / kWarp; i < count; i += kWarps) {
        const Chunk chunk = sum_chunk(row, i);
        if (threadIdx.x % kWarp == 0) chunks[i] = chunk;
        if (chunk.kept > 0) largest = fmaxf(largest, chunk.largest);
    }
    largest = block_max(largest, shared[0]);  // Its barriers also end the writing of chunks.
    for (int i = threadIdx.x; i < count; i += kThreads) {
        Chunk& chunk = chunks[i];
        const double shift = (static_cast<double>(chunk.largest) - largest) / row.temperature;
        // A chunk that has no weight in float32 has none here, so that no draw can end in it.
        float z, weight = 0.0f;
        if (chunk.kept > 0) row.weigh(chunk.largest, largest, z, weight);
        const double scale = weight > 0.0f ? exp(shift) : weight;
        chunk.weighted_z = scale > 0.0 ? scale * (chunk.weighted_z + chunk.weight * shift) : 0.0;
        chunk.weight *= scale;
    }
    __syncthreads();
    if (threadIdx.x < kWarp) draw(a, row, chunks, count, largest);
}

template <typename T>
void launch(const SampleArguments& a, cudaStream_t stream) {
    const auto chunks = static_cast<std::size_t>((a.cols + kSampleChunk - 1) / kSampleChunk);
    sample_kernel<T>
        <<<static_cast<unsigned>(a.rows), kThreads, chunks * sizeof(Chunk), stream>>>(a);
}

}  // namespace

const char* sample_cuda(const SampleArguments& arguments, int device, void* stream) {
    if (arguments.rows == 0) return nullptr;
    const OnDevice current(device);
    if (current.status() != cudaSuccess) return text_of(current.status());
    const auto on = static_cast<cudaStream_t>(stream);
    switch (arguments.type) {
        case FloatType::kFloat32:
            launch<float>(arguments, on);
            break;
        case FloatType::kBfloat16:
            launch<Bfloat16>(arguments, on);
            break;
        case FloatType::kFloat16:
            launch<__half>(arguments, on);
            break;
    }
    return text_of(cudaGetLastError());
}

}  // namespace fairlead
