// Threads share the outputs. Weights that lie [outputs, inputs] are multiplied as attention
// multiplies keys with a query; of weights that lie [inputs, outputs] some rows at a time are added
// to the outputs, which stay in the cache.
#include <vector>

#include "fairlead/row_linear.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// Adds N rows of the weight, times their inputs, to the outputs from `begin` to `end`.
template <int N>
void add_rows(const RowLinearArguments& a, std::int64_t input, std::int64_t begin,
              std::int64_t end) {
    const float* weight = a.weight + input * a.stride;
    Floats factor[N];
    FAIRLEAD_UNROLL for (int k = 0; k < N; ++k) factor[k] = fill(a.row[input + k]);
    for (std::int64_t j = begin; j < end; j += kWidth) {
        const std::int64_t count = smaller(kWidth, end - j);
        Floats sum = load(a.out + j, count);
        FAIRLEAD_UNROLL for (int k = 0; k < N; ++k) {
            sum = fused(factor[k], load(weight + k * a.stride + j, count), sum);
        }
        store(a.out + j, sum, count);
    }
}

void multiply_columns(const RowLinearArguments& a, std::int64_t begin, std::int64_t end) {
    constexpr int kRows = 8;
    for (std::int64_t j = begin; j < end; ++j) a.out[j] = a.bias == nullptr ? 0.0f : a.bias[j];
    std::int64_t input = 0;
    for (; input + kRows <= a.inputs; input += kRows) add_rows<kRows>(a, input, begin, end);
    for (; input < a.inputs; ++input) add_rows<1>(a, input, begin, end);
}

// `row` is padded to whole vectors.
void multiply_rows(const RowLinearArguments& a, const float* row, std::int64_t begin,
                   std::int64_t end) {
    for (std::int64_t j = begin; j < end; j += kWidth) {
        const std::int64_t count = smaller(kWidth, end - j);
        Floats result = scores(row, a.weight + j * a.stride, a.stride, a.inputs, count);
        if (a.bias != nullptr) result += load(a.bias + j, count);
        store(a.out + j, result, count);
    }
}

}  // namespace

void row_linear(const RowLinearArguments& a) {
    // Waking a second thread costs as much as reading some 100 kB.
    const int threads = worth(a.threads, 4.0 * static_cast<double>(a.inputs * a.outputs), 100e3);
    std::vector<float> row;
    if (!a.inputs_first) {
        row.assign(static_cast<std::size_t>(padded(a.inputs)), 0.0f);
        std::memcpy(row.data(), a.row, sizeof(float) * static_cast<std::size_t>(a.inputs));
    }
    const std::int64_t vectors = (a.outputs + kWidth - 1) / kWidth;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; ++part) {
        const std::int64_t begin = vectors * part / threads * kWidth;
        const std::int64_t end = smaller(a.outputs, vectors * (part + 1) / threads * kWidth);
        if (a.inputs_first) {
            multiply_columns(a, begin, end);
        } else {
            multiply_rows(a, row.data(), begin, end);
        }
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
