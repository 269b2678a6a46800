// Three passes over a row, which stays in the cache: the sum, the squares of what is off the mean,
// which lose nothing where that is large, and the result.
#include "fairlead/add_layer_norm.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// What a row is summed in: one of them alone would wait for itself.
constexpr int kRowSums = 4;

inline double sum_all(const Floats (&sums)[kRowSums]) {
    double total = 0.0;
    for (const Floats& one : sums) total += sum_lanes(one);
    return total;
}

inline void normalise_row(const AddLayerNormArguments& a, std::int64_t row) {
    const std::int64_t at = row * a.width;
    float* sum = a.sum + at;
    Floats sums[kRowSums] = {};
    for (std::int64_t i = 0, v = 0; i < a.width; i += kWidth, ++v) {
        const std::int64_t count = a.width - i;
        const Floats both = load(a.x + at + i, count) + load(a.other + at + i, count);
        store(sum + i, both, count);
        sums[v % kRowSums] += both;
    }
    const auto width = static_cast<double>(a.width);
    const Floats mean = fill(static_cast<float>(sum_all(sums) / width));
    Floats squares[kRowSums] = {};
    for (std::int64_t i = 0, v = 0; i < a.width; i += kWidth, ++v) {
        const std::int64_t count = a.width - i;
        Floats off = load(sum + i, count) - mean;
        if (count < kWidth) off = select(kLanes < static_cast<std::int32_t>(count), off, Floats{});
        squares[v % kRowSums] = fused(off, off, squares[v % kRowSums]);
    }
    const double variance = sum_all(squares) / width;
    const Floats scale = fill(static_cast<float>(1.0 / std::sqrt(variance + a.eps)));
    for (std::int64_t i = 0; i < a.width; i += kWidth) {
        const std::int64_t count = a.width - i;
        const Floats off = (load(sum + i, count) - mean) * scale;
        store(a.out + at + i, fused(off, load(a.weight + i, count), load(a.bias + i, count)),
              count);
    }
}

}  // namespace

void add_layer_norm(const AddLayerNormArguments& a) {
    const int threads = worth(a.threads, static_cast<double>(a.count * a.width), 30e3);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t row = 0; row < a.count; ++row) normalise_row(a, row);
}

}  // namespace fairlead::FAIRLEAD_ISA
