// Each row is read once: block by block, small enough for the first cache, its largest logit is
// found and then its sums are taken, while the next block is on its way; when a later block holds a
// larger logit the sums so far are scaled down to it. The gradient takes one more read and one
// write.
#include <cmath>

#include "fairlead/logprobs.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr std::int64_t kBlock = 1024;
constexpr int kChains = 4;  // Independent sums, so that an addition does not wait for the last one.

// A row up to some column. Sums in float32 within a block, in double over the blocks.
struct Running {
    double max = -static_cast<double>(kInfinity);
    double sum = 0.0;       // of exp z
    double weighted = 0.0;  // of exp(z) (-z), at least 0
    double at_label = 0.0;  // its logit
};

inline float per_temperature(double x, double temperature) {
    // At the ends of float32 0 * inf and -inf * 0 would be NaN.
    const double scale = x / temperature;
    const double most = std::numeric_limits<float>::max();
    const double least = std::numeric_limits<float>::min();
    return static_cast<float>(scale > most ? most : (scale < least ? least : scale));
}

// Moves the row's largest logit up to `max`.
inline void rescale(Running& row, double max, double temperature) {
    if (row.sum != 0.0) {
        const double down = (max - row.max) / temperature;
        const double factor = std::exp(-down);
        // Where factor is 0 so is the product with it, even where `down` is infinite.
        row.weighted = factor * row.weighted + (factor > 0.0 ? factor * down * row.sum : 0.0);
        row.sum *= factor;
    }
    row.max = max;
}

template <typename T>
float block_max(const T* x, std::int64_t count) {
    Floats top[kChains] = {fill(-kInfinity), fill(-kInfinity), fill(-kInfinity), fill(-kInfinity)};
    std::int64_t i = 0;
    for (; i + kChains * kWidth <= count; i += kChains * kWidth) {
        for (int c = 0; c < kChains; ++c) {
            top[c] = larger(load(x + i + c * kWidth, kWidth), top[c]);
        }
    }
    for (; i < count; i += kWidth) top[0] = larger(load_logits(x + i, count - i), top[0]);
    return max_lanes(larger(larger(top[0], top[1]), larger(top[2], top[3])));
}

template <typename T>
bool has_nan(const T* x, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float value = load_one(x + i);
        if (value != value) return true;
    }
    return false;
}

// The sums of exp z and of exp(z) z, as powers of 2.
struct Sums {
    Floats sum = {};
    Floats weighted = {};  // of 2^t t with t = z / log 2

    // `scale` is 1 / (temperature log 2). t is rounded, so that a term may be off by |z| / 2 ulp;
    // of a certain token's log-prob that is less than the sum's own rounding in plain torch.
    void add(Floats logits, Floats max, Floats scale) {
        // 2^t is 0 at the least t, so that 2^t t is 0 for an excluded token, not NaN.
        const Floats t = at_least((logits - max) * scale, kPowerZero);
        const Floats power = power_of_2(t);
        sum += power;
        weighted = fused(power, t, weighted);
    }
};

template <typename T>
void add_block(Running& row, const T* x, std::int64_t count, double temperature) {
    const float top = block_max(x, count);
    if (top == -kInfinity) {
        // The maximum passes NaN over; everywhere else it comes into the sums.
        if (has_nan(x, count)) row.sum = std::numeric_limits<double>::quiet_NaN();
        return;
    }
    if (top > row.max) rescale(row, top, temperature);
    const Floats max = fill(static_cast<float>(row.max));
    const Floats scale = fill(per_temperature(1.0 / kLog2, temperature));
    Sums sums[kChains];
    std::int64_t i = 0;
    for (; i + kChains * kWidth <= count; i += kChains * kWidth) {
        // Past a page, which may end anywhere here, nothing comes by itself. After the row's last
        // block this is the next row, or nothing.
        fetch<kChains * kWidth>(x + i + kBlock);
        for (int c = 0; c < kChains; ++c) sums[c].add(load(x + i + c * kWidth, kWidth), max, scale);
    }
    for (; i < count; i += kWidth) sums[0].add(load_logits(x + i, count - i), max, scale);
    for (const Sums& part : sums) {
        const double weighted = kLog2 * sum_lanes(part.weighted);
        // Of NaN 2^t may be anything, its product with t is NaN; otherwise that is finite.
        row.sum += sum_lanes(part.sum) + 0.0 * weighted;
        row.weighted -= weighted;
    }
}

void finish_row(const LogprobsForward& a, const Running& row, std::int64_t i) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    // Without a finite logit the sum is 0.
    const double sum = row.sum > 0.0 ? row.sum : nan;
    const double log_sum = std::log(sum);
    // In float32 first, as the contract has it: what overflows to -inf there is excluded.
    const auto difference = static_cast<float>(row.at_label - row.max);
    const bool excluded = difference == -kInfinity && sum == sum;
    a.logprobs[i] =
        excluded ? -kInfinity
                 : static_cast<float>((row.at_label - row.max) / a.block.temperature - log_sum);
    const double energy = row.weighted / sum;
    const auto entropy = static_cast<float>(log_sum + energy);
    const float most = largest_entropy(a.block.vocabulary);
    a.entropy[i] = entropy > most ? most : entropy;
    float* stats = a.stats + i * kLogprobStats;
    stats[0] = static_cast<float>(row.max);
    stats[1] = static_cast<float>(sum);
    stats[2] = static_cast<float>(energy);
    stats[3] = excluded ? 0.0f : 1.0f;
}

template <typename T>
void forward_row(const LogprobsForward& a, std::int64_t i) {
    const LogitsBlock& block = a.block;
    const T* x = static_cast<const T*>(a.logits) + i * block.stride;
    Running row;
    double* state = a.state == nullptr ? nullptr : a.state + i * kLogprobState;
    if (block.first > 0) row = {state[0], state[1], state[2], state[3]};
    for (std::int64_t start = 0; start < block.cols; start += kBlock) {
        const std::int64_t left = block.cols - start;
        add_block(row, x + start, left < kBlock ? left : kBlock, block.temperature);
    }
    const std::int64_t label = a.labels[i] - block.first;
    if (label >= 0 && label < block.cols) row.at_label = load_one(x + label);
    if (block.first + block.cols == block.vocabulary) {
        finish_row(a, row, i);
    } else {
        state[0] = row.max;
        state[1] = row.sum;
        state[2] = row.weighted;
        state[3] = row.at_label;
    }
}

// z, not below kExpZero, where exp z is 0: so exp(z) * z is 0 for an excluded token, not NaN.
template <bool Whole, typename T>
inline Floats scaled(const T* x, std::int64_t count, Floats max, Floats inverse) {
    const Floats value = Whole ? load(x, kWidth) : load_logits(x, count);
    return at_least((value - max) * inverse, kExpZero);
}

// -exp(z) (constant + slope * z), the gradient but for the label's own term.
struct Line {
    float constant;
    float slope;
};

template <bool Slope, bool Whole, typename T>
inline Floats gradient(const T* x, std::int64_t count, Floats max, Floats inverse, Line line) {
    const Floats z = scaled<Whole>(x, count, max, inverse);
    const Floats minus = exp_above(z);
    return Slope ? minus * fused(z, fill(line.slope), fill(line.constant))
                 : minus * fill(line.constant);
}

template <bool Slope, typename T>
void gradient_row(const T* x, T* to, std::int64_t cols, float row_max, float inverse, Line line) {
    const Floats max = fill(row_max);
    const Floats scale = fill(inverse);
    std::int64_t i = 0;
    for (; i + kChains * kWidth <= cols; i += kChains * kWidth) {
        Floats part[kChains];
        for (int c = 0; c < kChains; ++c) {
            part[c] = gradient<Slope, true>(x + i + c * kWidth, kWidth, max, scale, line);
        }
        for (int c = 0; c < kChains; ++c) store_as(to + i + c * kWidth, part[c], kWidth);
    }
    for (; i < cols; i += kWidth) {
        store_as(to + i, gradient<Slope, false>(x + i, cols - i, max, scale, line), cols - i);
    }
}

template <typename T>
void backward_row(const LogprobsBackward& a, std::int64_t i) {
    const LogitsBlock& block = a.block;
    const T* x = static_cast<const T*>(a.logits) + i * block.stride;
    T* to = static_cast<T*>(a.grad_logits) + i * a.grad_stride;
    const float* stats = a.stats + i * kLogprobStats;
    const bool counts = stats[3] != 0.0f;
    const double of_logprob = a.grad_logprobs != nullptr && counts ? a.grad_logprobs[i] : 0.0;
    const double of_entropy = a.grad_entropy != nullptr ? a.grad_entropy[i] : 0.0;
    if (of_logprob == 0.0 && of_entropy == 0.0) {
        std::memset(to, 0, sizeof(T) * static_cast<std::size_t>(block.cols));
        return;
    }
    // d logp / d x_i = (1[i = y] - p_i) / T;  d H / d x_i = -p_i (z_i + E) / T.
    const double sum = stats[1];
    const double energy = stats[2];
    const double per = 1.0 / block.temperature;
    const double constant = -(of_logprob + of_entropy * energy) * per;
    const double slope = -of_entropy * per;
    const Line line = {static_cast<float>(constant / sum), static_cast<float>(slope / sum)};
    const float inverse = per_temperature(1.0, block.temperature);
    const std::int64_t label = a.labels[i] - block.first;
    const bool here = label >= 0 && label < block.cols;
    const double label_logit = here ? load_one(x + label) : 0.0;  // Before it is written over.
    if (slope == 0.0) {
        gradient_row<false>(x, to, block.cols, stats[0], inverse, line);
    } else {
        gradient_row<true>(x, to, block.cols, stats[0], inverse, line);
    }
    if (here && counts) {
        // In double: of a token that is nearly certain little is left of 1 - p.
        const double z = (label_logit - stats[0]) * per;
        const double p = std::exp(z) / sum;
        const double rest = slope == 0.0 ? 0.0 : slope * z * p;
        store_as(to + label, fill(static_cast<float>(of_logprob * per + constant * p + rest)), 1);
    }
}

template <typename T>
void forward_rows(const LogprobsForward& a, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < a.block.rows; ++i) forward_row<T>(a, i);
}

template <typename T>
void backward_rows(const LogprobsBackward& a, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < a.block.rows; ++i) backward_row<T>(a, i);
}

inline int threads_for(const LogitsBlock& block) {
    // Waking a second thread costs as much as some 100,000 logits.
    return worth(block.threads, static_cast<double>(block.rows) * static_cast<double>(block.cols),
                 100e3);
}

}  // namespace

void logprobs_forward(const LogprobsForward& a) {
    const int threads = threads_for(a.block);
    switch (a.block.type) {
        case FloatType::kFloat32:
            return forward_rows<float>(a, threads);
        case FloatType::kBfloat16:
            return forward_rows<Bfloat16>(a, threads);
        case FloatType::kFloat16:
            return forward_rows<Float16>(a, threads);
    }
}

void logprobs_backward(const LogprobsBackward& a) {
    const int threads = threads_for(a.block);
    switch (a.block.type) {
        case FloatType::kFloat32:
            return backward_rows<float>(a, threads);
        case FloatType::kBfloat16:
            return backward_rows<Bfloat16>(a, threads);
        case FloatType::kFloat16:
            return backward_rows<Float16>(a, threads);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
