// A piece of work is up to kPiece positions of one row and one key/value head, with all query heads
// of its group: a key or value is read from memory once for all of them. Softmax is streaming, a
// tile of positions at a time: the largest score so far is subtracted, and what was added up before
// is scaled down when a larger one comes. A row of several pieces is merged in their order, whoever
// computed them, so a result depends neither on the threads nor on the other rows.
#include <omp.h>

#include <cmath>
#include <vector>

#include "fairlead/decode_attention.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr std::int64_t kPiece = 1024;
// With 64 floats a head, 8 kB of keys: measured, twice as much took half again as long.
constexpr std::int64_t kTile = 32;

inline std::int64_t padded(std::int64_t dim) { return (dim + kWidth - 1) / kWidth * kWidth; }

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// What a thread works in.
struct Work {
    float* query;    // [group, padded dim], scaled.
    float* weights;  // [group, kTile], scores first.
    float* tile;     // [kTile, padded dim], keys or values as floats.
    float* partial;  // [group], for rows of one piece.
};

// What has been added up for one head: the values times their weights, the largest score, and the
// sum of the weights.
struct Partial {
    float* values;  // [padded dim]
    float* largest;
    float* total;

    static std::int64_t size(std::int64_t dim) { return padded(dim) + kWidth; }

    Partial(float* memory, std::int64_t dim)
        : values(memory), largest(memory + padded(dim)), total(largest + 1) {}
};

// The scores of `count` keys, at most WIDTH; lanes past them hold something finite or not.
template <typename T>
inline Floats scores(const float* query, const T* keys, std::int64_t stride, std::int64_t dim,
                     std::int64_t count) {
    const T* rows[kWidth];
    FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) rows[i] =
        keys + smaller(i, count - 1) * stride;
    Floats products[kWidth] = {};
    std::int64_t d = 0;
    for (; d + kWidth <= dim; d += kWidth) {
        const Floats q = load(query + d, kWidth);
        FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) {
            products[i] = fused(q, load(rows[i] + d, kWidth), products[i]);
        }
    }
    if (d < dim) {
        const Floats q = load(query + d, kWidth);
        FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) {
            products[i] = fused(q, load(rows[i] + d, dim - d), products[i]);
        }
    }
    return sums(products);
}

// Adds N vectors of values times weights to `total`, which was scaled down first.
template <int N, typename T>
inline void add_values(const float* weights, const T* values, std::int64_t stride,
                       std::int64_t positions, std::int64_t count, float scale, float* total) {
    Floats even[N] = {};
    Floats odd[N] = {};
    std::int64_t s = 0;
    for (; s + 1 < positions; s += 2) {
        const Floats first = fill(weights[s]);
        const Floats second = fill(weights[s + 1]);
        FAIRLEAD_UNROLL for (int i = 0; i < N; ++i) {
            const Floats a = load(values + s * stride + i * kWidth, count);
            even[i] = fused(first, a, even[i]);
            const Floats b = load(values + (s + 1) * stride + i * kWidth, count);
            odd[i] = fused(second, b, odd[i]);
        }
    }
    if (s < positions) {
        FAIRLEAD_UNROLL for (int i = 0; i < N; ++i) {
            const Floats a = load(values + s * stride + i * kWidth, count);
            even[i] = fused(fill(weights[s]), a, even[i]);
        }
    }
    FAIRLEAD_UNROLL for (int i = 0; i < N; ++i) {
        float* target = total + i * kWidth;
        store(target, fused(load(target, kWidth), fill(scale), even[i] + odd[i]), kWidth);
    }
}

// Scores to weights, for one head: exp(score - largest). Returns by how much what was added up so
// far is scaled down.
inline float weigh(float* weights, std::int64_t positions, float& largest, float& total) {
    Floats most = fill(largest);
    for (std::int64_t s = 0; s < positions; s += kWidth)
        most = larger(load(weights + s, kWidth), most);
    most = max_across(most);
    // With nothing but -inf so far no weight is anything but 0, where -inf - -inf would be NaN.
    const float base = most[0] == -INFINITY ? 0.0f : most[0];
    Floats sum = {};
    for (std::int64_t s = 0; s < positions; s += kWidth) {
        const Floats weight = exp(load(weights + s, kWidth) - base);
        store(weights + s, weight, kWidth);
        sum += weight;
    }
    const float scale = exp(fill(largest - base))[0];
    total = total * scale + sum_across(sum)[0];
    largest = most[0];
    return scale;
}

// A tile's keys or values as floats, once for all heads that read them.
template <typename T>
inline void widen(const T* source, std::int64_t stride, std::int64_t positions, std::int64_t dim,
                  float* target) {
    const std::int64_t width = padded(dim);
    for (std::int64_t s = 0; s < positions; ++s) {
        for (std::int64_t d = 0; d < dim; d += kWidth) {
            store(target + s * width + d, load(source + s * stride + d, dim - d), kWidth);
        }
    }
}

// Has `positions` keys or values brought into the cache, in the order of memory. The next ones
// while these are computed with: what there is to do is little beside the reading.
template <typename T>
inline void fetch(const T* source, std::int64_t stride, std::int64_t positions, std::int64_t dim) {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t s = 0; s < positions; ++s) {
        for (std::int64_t d = 0; d < dim; d += kLine)
            __builtin_prefetch(source + s * stride + d, 0, 2);
    }
}

template <typename T>
void tile_scores(const Work& work, const T* keys, std::int64_t stride, std::int64_t positions,
                 std::int64_t group, std::int64_t dim) {
    const std::int64_t width = padded(dim);
    for (std::int64_t g = 0; g < group; ++g) {
        for (std::int64_t s = 0; s < positions; s += kWidth) {
            Floats score =
                scores(work.query + g * width, keys + s * stride, stride, dim, positions - s);
            if (positions - s < kWidth) {
                const Ints inside = kLanes < static_cast<std::int32_t>(positions - s);
                score = select(inside, score, fill(-INFINITY));
            }
            store(work.weights + g * kTile + s, score, kWidth);
        }
    }
}

template <typename T>
void tile_values(const Work& work, float* partials, std::int64_t partial_stride, const T* values,
                 std::int64_t stride, std::int64_t positions, std::int64_t group,
                 std::int64_t dim) {
    constexpr int kVectors = 4;
    for (std::int64_t g = 0; g < group; ++g) {
        float* weights = work.weights + g * kTile;
        const Partial partial(partials + g * partial_stride, dim);
        const float scale = weigh(weights, positions, *partial.largest, *partial.total);
        std::int64_t d = 0;
        for (; d + kVectors * kWidth <= dim; d += kVectors * kWidth) {
            add_values<kVectors>(weights, values + d, stride, positions, kWidth, scale,
                                 partial.values + d);
        }
        for (; d < dim; d += kWidth) {
            add_values<1>(weights, values + d, stride, positions, dim - d, scale,
                          partial.values + d);
        }
    }
}

// A new key or value, in the cache's type.
template <typename T>
void append(const float* source, T* target, std::int64_t dim) {
    for (std::int64_t d = 0; d < dim; d += kWidth) {
        store_as(target + d, load(source + d, dim - d), dim - d);
    }
}

template <typename T>
void append_new(const DecodeAttentionArguments& a, std::int64_t row, std::int64_t kv_head) {
    const std::int64_t at = a.lengths[row] - 1;
    append(a.new_keys + row * a.new_key_strides[0] + kv_head * a.new_key_strides[1],
           static_cast<T*>(a.keys) + row * a.key_strides[0] + kv_head * a.key_strides[1] +
               at * a.key_strides[2],
           a.dim);
    append(a.new_values + row * a.new_value_strides[0] + kv_head * a.new_value_strides[1],
           static_cast<T*>(a.values) + row * a.value_strides[0] + kv_head * a.value_strides[1] +
               at * a.value_strides[2],
           a.dim);
}

// The positions from `start` to `end` of one row and key/value head, into the partials of its
// group.
template <typename T>
void attend(const DecodeAttentionArguments& a, const Work& work, std::int64_t row,
            std::int64_t kv_head, std::int64_t start, std::int64_t end, float* partials,
            std::int64_t partial_stride) {
    const std::int64_t group = a.heads / a.kv_heads;
    const std::int64_t width = padded(a.dim);
    for (std::int64_t g = 0; g < group; ++g) {
        const float* query =
            a.query + row * a.query_strides[0] + (kv_head * group + g) * a.query_strides[1];
        const Partial partial(partials + g * partial_stride, a.dim);
        for (std::int64_t d = 0; d < a.dim; d += kWidth) {
            store(work.query + g * width + d, load(query + d, a.dim - d) * a.scale, kWidth);
            store(partial.values + d, Floats{}, kWidth);
        }
        *partial.largest = -INFINITY;
        *partial.total = 0.0f;
    }
    const T* keys =
        static_cast<const T*>(a.keys) + row * a.key_strides[0] + kv_head * a.key_strides[1];
    const T* values =
        static_cast<const T*>(a.values) + row * a.value_strides[0] + kv_head * a.value_strides[1];
    for (std::int64_t s = start; s < end; s += kTile) {
        const std::int64_t count = smaller(kTile, end - s);
        const T* key = keys + s * a.key_strides[2];
        const T* value = values + s * a.value_strides[2];
        if (sizeof(T) == sizeof(float) || group == 1) {
            fetch(value, a.value_strides[2], count, a.dim);
            tile_scores(work, key, a.key_strides[2], count, group, a.dim);
            if (s + kTile < end) {
                fetch(key + kTile * a.key_strides[2], a.key_strides[2],
                      smaller(kTile, end - s - kTile), a.dim);
            }
            tile_values(work, partials, partial_stride, value, a.value_strides[2], count, group,
                        a.dim);
        } else {
            widen(key, a.key_strides[2], count, a.dim, work.tile);
            tile_scores<float>(work, work.tile, width, count, group, a.dim);
            widen(value, a.value_strides[2], count, a.dim, work.tile);
            tile_values<float>(work, partials, partial_stride, work.tile, width, count, group,
                               a.dim);
        }
    }
}

// One head's result from the partials of its pieces, in their order; zeros where there is none.
void merge(float* partials, std::int64_t pieces, std::int64_t dim, float* out) {
    const std::int64_t stride = Partial::size(dim);
    float base = -INFINITY;
    for (std::int64_t i = 0; i < pieces; ++i) {
        const Partial partial(partials + i * stride, dim);
        base = *partial.largest > base ? *partial.largest : base;
    }
    float total = 0.0f;
    for (std::int64_t i = 0; i < pieces; ++i) {
        const Partial partial(partials + i * stride, dim);
        *partial.largest = exp(fill(*partial.largest - base))[0];
        total += *partial.total * *partial.largest;
    }
    for (std::int64_t d = 0; d < dim; d += kWidth) {
        Floats sum = {};
        for (std::int64_t i = 0; i < pieces; ++i) {
            const Partial partial(partials + i * stride, dim);
            sum = fused(load(partial.values + d, kWidth), fill(*partial.largest), sum);
        }
        store(out + d, pieces == 0 ? sum : sum / fill(total), dim - d);
    }
}

template <typename T>
void attend_all(const DecodeAttentionArguments& a) {
    const std::int64_t group = a.heads / a.kv_heads;
    std::int64_t positions = 0;
    std::int64_t longest = 0;
    for (std::int64_t row = 0; row < a.batch; ++row) {
        positions += a.lengths[row];
        longest = a.lengths[row] > longest ? a.lengths[row] : longest;
    }
    const std::int64_t pieces = longest > kPiece ? (longest + kPiece - 1) / kPiece : 1;
    // Waking a second thread costs as much as some 100,000 elements of the cache.
    const double work = 2.0 * static_cast<double>(positions * a.kv_heads * a.dim);
    const int threads = worth(a.threads, work, 100e3);

    const std::int64_t partial = Partial::size(a.dim);
    const std::int64_t width = padded(a.dim);
    const std::int64_t scratch = group * (width + kTile + partial) + kTile * width;
    const std::int64_t shared = pieces > 1 ? a.batch * a.heads * pieces * partial : 0;
    std::vector<float> memory(static_cast<std::size_t>(threads * scratch + shared + kWidth));
    // Every part is a multiple of a vector; so is where they start.
    const auto beyond = reinterpret_cast<std::uintptr_t>(memory.data()) / sizeof(float) % kWidth;
    float* start = memory.data() + (kWidth - beyond) % kWidth;
    float* partials = start + threads * scratch;

    const std::int64_t items = a.batch * a.kv_heads * pieces;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t item = 0; item < items; ++item) {
        const std::int64_t piece = item % pieces;
        const std::int64_t kv_head = item / pieces % a.kv_heads;
        const std::int64_t row = item / pieces / a.kv_heads;
        const std::int64_t length = a.lengths[row];
        const std::int64_t from = piece * kPiece;
        if (from > 0 && from >= length) continue;
        if (a.new_keys != nullptr && length <= from + kPiece) append_new<T>(a, row, kv_head);
        Work own;
        own.query = start + omp_get_thread_num() * scratch;
        own.weights = own.query + group * width;
        own.tile = own.weights + group * kTile;
        own.partial = own.tile + kTile * width;
        const std::int64_t head = row * a.heads + kv_head * group;
        if (length > kPiece) {
            attend<T>(a, own, row, kv_head, from, smaller(from + kPiece, length),
                      partials + (head * pieces + piece) * partial, pieces * partial);
            continue;
        }
        attend<T>(a, own, row, kv_head, 0, length, own.partial, partial);
        for (std::int64_t g = 0; g < group; ++g) {
            merge(own.partial + g * partial, length > 0, a.dim, a.out + (head + g) * a.dim);
        }
    }
    if (pieces == 1) return;
    for (std::int64_t head = 0; head < a.batch * a.heads; ++head) {
        const std::int64_t length = a.lengths[head / a.heads];
        if (length <= kPiece) continue;
        merge(partials + head * pieces * partial, (length + kPiece - 1) / kPiece, a.dim,
              a.out + head * a.dim);
    }
}

}  // namespace

void decode_attention(const DecodeAttentionArguments& arguments) {
    switch (arguments.type) {
        case FloatType::kFloat32:
            return attend_all<float>(arguments);
        case FloatType::kBfloat16:
            return attend_all<Bfloat16>(arguments);
        case FloatType::kFloat16:
            return attend_all<Float16>(arguments);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
