// A piece of work is one sequence and one key/value head, with the query heads that share it. Keys
// are transposed once, so that a product's vectors run along positions. The scores of a few queries
// against all keys before them stay in the cache; no more of the matrix is ever there.
#include <omp.h>

#include <memory>

#include "fairlead/ragged_attention.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// Queries at a time in the backward pass: the keys' gradients are read and written once for them.
constexpr std::int64_t kQueries = 4 * kTileRows;

// One head of one sequence.
template <typename T>
struct Head {
    T* data;
    std::int64_t stride;  // From a position to the next.

    T* at(std::int64_t position) const { return data + position * stride; }
};

template <typename T>
Head<T> head_of(const HeadRows& rows, std::int64_t position, std::int64_t head) {
    return {static_cast<T*>(rows.data) + position * rows.position_stride + head * rows.head_stride,
            rows.position_stride};
}

template <typename T>
Head<T> head_of(void* data, const RaggedAttentionArguments& a, std::int64_t heads,
                std::int64_t position, std::int64_t head) {
    return head_of<T>({data, heads * a.dim, a.dim}, position, head);
}

// Copies positions times a factor; of float32 into floats, and back.
template <typename From, typename To>
void copy(Head<From> from, std::int64_t count, std::int64_t dim, float factor, Head<To> to) {
    for (std::int64_t s = 0; s < count; ++s) {
        for (std::int64_t d = 0; d < dim; d += kWidth) {
            store_as(to.at(s) + d, load(from.at(s) + d, dim - d) * factor, dim - d);
        }
    }
}

// The positions as floats, where they are or copied to `room`.
template <typename T>
Head<float> floats(Head<T> from, std::int64_t count, std::int64_t dim, float* room) {
    if constexpr (std::is_same_v<T, float>) {
        return from;
    } else {
        copy(from, count, dim, 1.0f, Head<float>{room, dim});
        return {room, dim};
    }
}

// Which of the lanes from position `at` on are below `count`.
inline Ints below(std::int64_t at, std::int64_t count) {
    return kLanes < static_cast<std::int32_t>(count - at);
}

// exp(score - base), zero where it does not count. No exp is taken of -inf there: a result that
// small takes some processors a hundred cycles.
inline Floats weight_of(Floats score, Floats base, Ints counts) {
    return select(counts, exp(select(counts, score - base, Floats{})), Floats{});
}

// Scores of kTileRows queries to weights, exp(score - largest), zeros past `count` and one more a
// row. Totals are the sums; logsums their logarithms with the scores as they were. All rows at
// once: one after the other, each would wait for its own largest score.
void soften(float* scores, std::int64_t width, std::int64_t count, std::int64_t columns,
            float* totals, float* logsums) {
    Floats most[kTileRows];
    FAIRLEAD_UNROLL for (int i = 0; i < kTileRows; ++i) most[i] = fill(-kInfinity);
    for (std::int64_t s = 0; s < columns; s += kWidth) {
        FAIRLEAD_UNROLL for (int i = 0; i < kTileRows; ++i) {
            const Floats score = load(scores + i * width + s, kWidth);
            most[i] = larger(select(below(s, count + i), score, fill(-kInfinity)), most[i]);
        }
    }
    Floats base[kTileRows];
    FAIRLEAD_UNROLL for (int i = 0; i < kTileRows; ++i) {
        base[i] = max_across(most[i]);
        // With nothing but -inf no weight is anything but 0, where -inf - -inf would be NaN.
        base[i] = select(base[i] == fill(-kInfinity), Floats{}, base[i]);
    }
    Floats sum[kTileRows] = {};
    for (std::int64_t s = 0; s < columns; s += kWidth) {
        FAIRLEAD_UNROLL for (int i = 0; i < kTileRows; ++i) {
            float* at = scores + i * width + s;
            const Floats weight = weight_of(load(at, kWidth), base[i], below(s, count + i));
            store(at, weight, kWidth);
            sum[i] += weight;
        }
    }
    for (int i = 0; i < kTileRows; ++i) {
        totals[i] = sum_across(sum[i])[0];
        logsums[i] = base[i][0] + std::log(totals[i]);
    }
}

// Scores to weights as they were in the forward pass, and the gradients of those weights to the
// gradients of the scores; zeros from `count` to `columns`.
void weights_and_gradients(float* scores, float* gradients, std::int64_t count,
                           std::int64_t columns, float logsum, float mean) {
    for (std::int64_t s = 0; s < columns; s += kWidth) {
        const Ints counts = below(s, count);
        const Floats weight = weight_of(load(scores + s, kWidth), fill(logsum), counts);
        const Floats gradient = select(counts, load(gradients + s, kWidth) - mean, Floats{});
        store(scores + s, weight, kWidth);
        store(gradients + s, weight * gradient, kWidth);
    }
}

template <typename T>
float dot(const T* a, const T* b, std::int64_t dim) {
    Floats sum = {};
    for (std::int64_t d = 0; d < dim; d += kWidth) {
        sum = fused(load(a + d, dim - d), load(b + d, dim - d), sum);
    }
    return sum_across(sum)[0];
}

// A thread's memory, taken part by part.
class Room {
  public:
    explicit Room(float* start) : next_(start) {}
    float* take(std::int64_t size) {
        float* part = next_;
        next_ += padded(size);
        return part;
    }

  private:
    float* next_;
};

template <typename T>
void forward(const RaggedAttentionForward& f, std::int64_t begin, std::int64_t length,
             std::int64_t kv_head, Room room) {
    const RaggedAttentionArguments& a = f.common;
    const std::int64_t dim = a.dim, width = padded(length), group = a.heads / a.kv_heads;
    float* keys = room.take(dim * width);
    float* query = room.take(kTileRows * dim);
    float* scores = room.take(kTileRows * width);
    float* result = room.take(kTileRows * dim);
    const auto key = head_of<T>(a.keys, begin, kv_head);
    transpose(key.data, key.stride, length, dim, keys, width);
    const auto values =
        floats(head_of<T>(a.values, begin, kv_head), length, dim, room.take(length * dim));
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        const auto out = head_of<T>(f.out, a, a.heads, begin, h);
        for (std::int64_t q = 0; q < length; q += kTileRows) {
            const std::int64_t count = smaller(kTileRows, length - q);
            const std::int64_t seen = q + count;
            copy(head_of<T>(a.query, begin + q, h), count, dim, a.scale, Head<float>{query, dim});
            multiply({query, dim, 1}, count, keys, width, dim, padded(seen), false, scores, width);
            float totals[kTileRows], logsums[kTileRows];
            soften(scores, width, q + 1, seen, totals, logsums);
            multiply({scores, width, 1}, count, values.data, values.stride, seen, dim, false,
                     result, dim);
            for (std::int64_t i = 0; i < count; ++i) {
                f.logsums[(begin + q + i) * a.heads + h] = logsums[i];
                copy(Head<float>{result + i * dim, dim}, 1, dim, 1.0f / totals[i],
                     Head<T>{out.at(q + i), dim});
            }
        }
    }
}

template <typename T>
void backward(const RaggedAttentionBackward& b, std::int64_t begin, std::int64_t length,
              std::int64_t kv_head, Room room) {
    const RaggedAttentionArguments& a = b.common;
    const std::int64_t dim = a.dim, width = padded(length), group = a.heads / a.kv_heads;
    float* keys = room.take(dim * width);
    float* values = room.take(dim * width);
    float* query = room.take(kQueries * dim);
    float* weights = room.take(kQueries * width);
    float* gradients = room.take(kQueries * width);
    float* of_query = room.take(kQueries * dim);
    float* of_keys = room.take(length * dim);
    float* of_values = room.take(length * dim);
    float* outer = room.take(kQueries * dim);
    const auto key = head_of<T>(a.keys, begin, kv_head);
    const auto value = head_of<T>(a.values, begin, kv_head);
    transpose(key.data, key.stride, length, dim, keys, width);
    transpose(value.data, value.stride, length, dim, values, width);
    const auto rows = floats(key, length, dim, room.take(length * dim));
    std::memset(of_keys, 0, sizeof(float) * static_cast<std::size_t>(length * dim));
    std::memset(of_values, 0, sizeof(float) * static_cast<std::size_t>(length * dim));
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        for (std::int64_t q = 0; q < length; q += kQueries) {
            const std::int64_t count = smaller(kQueries, length - q);
            const std::int64_t seen = q + count;
            copy(head_of<T>(a.query, begin + q, h), count, dim, a.scale, Head<float>{query, dim});
            const auto grad = head_of<T>(b.grad_out, begin + q, h);
            const auto out = head_of<T>(const_cast<void*>(b.out), a, a.heads, begin + q, h);
            const auto above = floats(grad, count, dim, outer);
            // 1. Scores, and the gradients of their weights, each row to its diagonal.
            for (std::int64_t i = 0; i < count; i += kTileRows) {
                const std::int64_t some = smaller(kTileRows, count - i);
                const std::int64_t before = padded(q + i + some);
                multiply({query + i * dim, dim, 1}, some, keys, width, dim, before, false,
                         weights + i * width, width);
                multiply({above.at(i), above.stride, 1}, some, values, width, dim, before, false,
                         gradients + i * width, width);
            }
            for (std::int64_t i = 0; i < count; ++i) {
                weights_and_gradients(weights + i * width, gradients + i * width, q + i + 1, seen,
                                      b.logsums[(begin + q + i) * a.heads + h],
                                      dot(grad.at(i), out.at(i), dim));
            }
            // 2. What each key and value gets of these queries, and the queries of them.
            multiply({weights, 1, width}, seen, above.data, above.stride, count, dim, true,
                     of_values, dim);
            multiply({gradients, 1, width}, seen, query, dim, count, dim, true, of_keys, dim);
            for (std::int64_t i = 0; i < count; i += kTileRows) {
                const std::int64_t some = smaller(kTileRows, count - i);
                multiply({gradients + i * width, width, 1}, some, rows.data, rows.stride,
                         q + i + some, dim, false, of_query + i * dim, dim);
            }
            copy(Head<float>{of_query, dim}, count, dim, a.scale,
                 head_of<T>(b.grad_query, a, a.heads, begin + q, h));
        }
    }
    copy(Head<float>{of_keys, dim}, length, dim, 1.0f,
         head_of<T>(b.grad_keys, a, a.kv_heads, begin, kv_head));
    copy(Head<float>{of_values, dim}, length, dim, 1.0f,
         head_of<T>(b.grad_values, a, a.kv_heads, begin, kv_head));
}

// Calls `piece(begin, length, kv_head, room)` for every sequence and key/value head; `room` has
// `floats_of(length)` floats.
template <typename Size, typename Piece>
void for_each_piece(const RaggedAttentionArguments& a, Size floats_of, Piece piece) {
    std::int64_t longest = 0;
    double work = 0.0;
    for (std::int64_t b = 0; b < a.sequences; ++b) {
        const std::int64_t length = a.offsets[b + 1] - a.offsets[b];
        longest = length > longest ? length : longest;
        work += static_cast<double>(length * length * a.heads * a.dim);
    }
    const int threads = worth(a.threads, work, 200e3);
    const std::int64_t each = floats_of(longest);
    const std::unique_ptr<float[]> memory(new float[static_cast<std::size_t>(threads * each)]);
    const std::int64_t pieces = a.sequences * a.kv_heads;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < pieces; ++i) {
        const std::int64_t begin = a.offsets[i / a.kv_heads];
        const std::int64_t length = a.offsets[i / a.kv_heads + 1] - begin;
        if (length > 0)
            piece(begin, length, i % a.kv_heads, Room(memory.get() + omp_get_thread_num() * each));
    }
}

// Zeros for the positions that belong to no sequence.
template <typename T>
void clear_rest(const RaggedAttentionArguments& a, std::int64_t heads, void* data) {
    const std::int64_t from = a.offsets[a.sequences] * heads * a.dim;
    const std::int64_t to = a.positions * heads * a.dim;
    std::memset(static_cast<T*>(data) + from, 0, sizeof(T) * static_cast<std::size_t>(to - from));
}

template <typename T>
void forward_all(const RaggedAttentionForward& f) {
    const RaggedAttentionArguments& a = f.common;
    clear_rest<T>(a, a.heads, f.out);
    const auto floats_of = [&a](std::int64_t length) {
        return (a.dim + kTileRows) * padded(length) + 2 * padded(kTileRows * a.dim) +
               padded(length * a.dim) + kTileRows * padded(length) + 4 * kWidth;
    };
    for_each_piece(a, floats_of,
                   [&f](std::int64_t begin, std::int64_t length, std::int64_t head, Room room) {
                       forward<T>(f, begin, length, head, room);
                   });
}

template <typename T>
void backward_all(const RaggedAttentionBackward& b) {
    const RaggedAttentionArguments& a = b.common;
    clear_rest<T>(a, a.heads, b.grad_query);
    clear_rest<T>(a, a.kv_heads, b.grad_keys);
    clear_rest<T>(a, a.kv_heads, b.grad_values);
    const auto floats_of = [&a](std::int64_t length) {
        return (2 * a.dim + 2 * kQueries) * padded(length) + 3 * padded(kQueries * a.dim) +
               3 * padded(length * a.dim) + 10 * kWidth;
    };
    for_each_piece(a, floats_of,
                   [&b](std::int64_t begin, std::int64_t length, std::int64_t head, Room room) {
                       backward<T>(b, begin, length, head, room);
                   });
}

}  // namespace

void ragged_attention_forward(const RaggedAttentionForward& f) {
    switch (f.common.type) {
        case FloatType::kFloat32:
            return forward_all<float>(f);
        case FloatType::kBfloat16:
            return forward_all<Bfloat16>(f);
        case FloatType::kFloat16:
            return forward_all<Float16>(f);
    }
}

void ragged_attention_backward(const RaggedAttentionBackward& b) {
    switch (b.common.type) {
        case FloatType::kFloat32:
            return backward_all<float>(b);
        case FloatType::kBfloat16:
            return backward_all<Bfloat16>(b);
        case FloatType::kFloat16:
            return backward_all<Float16>(b);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
