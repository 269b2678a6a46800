// Threads share the panels. A panel is read from memory once, in the order in which it lies, by the
// first block of rows, and from the cache by the others; a block's sums stay in the registers. So
// many inputs at a time that a panel's part stays in the first cache (in AVX-512, the second); and
// a sum of a few such parts is nearer to the true one than that of one input after the other.
#include "fairlead/packed_linear.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr std::int64_t kPanel = 16;
constexpr int kBlockRows = 6;
// With 6 rows these are as many sums as there are registers to keep them.
constexpr int kBlockVectors = kWidth == 16 ? 4 : 2;
constexpr std::int64_t kInputs = 256;
// How far ahead a panel is asked for, in inputs: the processor's own guess comes too late.
constexpr std::int64_t kAhead = 16;

// A part of the work: outputs from `begin` on, inputs from `first` to `last`.
struct Part {
    std::int64_t begin;
    std::int64_t first;
    std::int64_t last;
};

// R rows from `row`, and V vectors of outputs.
template <int R, int V>
inline void block(const PackedLinearArguments& a, const Part& part, std::int64_t row) {
    const auto place = [&](std::int64_t output) {
        return output / kPanel * a.inputs * kPanel + output % kPanel;
    };
    const float* weight = a.panels + place(part.begin) + part.first * kPanel;
    const float* rows = a.rows + row * a.stride;
    Floats sums[R][V] = {};
    for (std::int64_t i = part.first; i < part.last; ++i, weight += kPanel) {
        Floats w[V];
        FAIRLEAD_UNROLL for (int v = 0; v < V; ++v) {
            const float* vector = weight + place(v * kWidth);
            w[v] = load(vector, kWidth);
            if (v * kWidth % kPanel == 0) __builtin_prefetch(vector + kAhead * kPanel);
        }
        FAIRLEAD_UNROLL for (int r = 0; r < R; ++r) {
            const Floats x = fill(rows[r * a.stride + i]);
            FAIRLEAD_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = fused(x, w[v], sums[r][v]);
        }
    }
    FAIRLEAD_UNROLL for (int v = 0; v < V; ++v) {
        const std::int64_t at = part.begin + v * kWidth;
        const std::int64_t count = a.outputs - at;
        FAIRLEAD_UNROLL for (int r = 0; r < R; ++r) {
            float* out = a.out + (row + r) * a.outputs + at;
            Floats sum = sums[r][v];
            if (part.first > 0) {
                sum += load(out, count);
            } else if (a.bias != nullptr) {
                sum += load(a.bias + at, count);
            }
            store(out, a.gelu && part.last == a.inputs ? gelu_of(sum) : sum, count);
        }
    }
}

// All rows, in blocks as equal as they can be: one of few rows would wait for its own sums.
template <int V>
void multiply_panels(const PackedLinearArguments& a, std::int64_t begin) {
    using Block = void (*)(const PackedLinearArguments&, const Part&, std::int64_t);
    static constexpr Block kBlocks[] = {block<1, V>, block<2, V>, block<3, V>,
                                        block<4, V>, block<5, V>, block<kBlockRows, V>};
    const std::int64_t blocks = (a.count + kBlockRows - 1) / kBlockRows;
    // Without inputs there is one part all the same, for the bias.
    for (std::int64_t first = 0; first == 0 || first < a.inputs; first += kInputs) {
        const Part part = {begin, first, smaller(first + kInputs, a.inputs)};
        for (std::int64_t number = 0; number < blocks; ++number) {
            const std::int64_t row = a.count * number / blocks;
            kBlocks[a.count * (number + 1) / blocks - row - 1](a, part, row);
        }
    }
}

// Outputs from `begin` to `end`, both at a panel's edge.
template <int V = kBlockVectors>
void multiply_outputs(const PackedLinearArguments& a, std::int64_t begin, std::int64_t end) {
    for (; begin + V * kWidth <= end; begin += V * kWidth) multiply_panels<V>(a, begin);
    if constexpr (V > 1) {
        if (begin < end) multiply_outputs<V - 1>(a, begin, end);
    }
}

}  // namespace

void packed_linear(const PackedLinearArguments& a) {
    // Waking a second thread costs as much as reading some 100 kB.
    const double work = 4.0 * static_cast<double>(a.inputs * a.outputs) *
                        (1.0 + static_cast<double>(a.count) / kBlockRows);
    const int threads = worth(a.threads, work, 200e3);
    const std::int64_t panels = (a.outputs + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; ++part) {
        multiply_outputs(a, panels * part / threads * kPanel,
                         panels * (part + 1) / threads * kPanel);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
