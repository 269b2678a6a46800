// One sweep: terms, sums and gradient. Sums run in float over short stretches and in double over
// those, block by block, and the blocks are added in order.
#include "fairlead/ppo_loss.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr std::int64_t kStretch = 64 * kWidth;

// N sums side by side.
template <int N>
struct Totals {
    Floats now[N] = {};
    Doubles before[N] = {};

    void end_stretch() {
        for (int i = 0; i < N; ++i) {
            before[i] += low_half(now[i]) + high_half(now[i]);
            now[i] = Floats{};
        }
    }
    void write(double* target) const {
        for (int i = 0; i < N; ++i) target[i] = sum(before[i]);
    }
};

// The larger one, NaN where either is.
inline Floats larger_or_nan(Floats a, Floats b) {
    const Floats ordered = a < b ? b : a;
    return b == b ? ordered : b;
}

// What of a gradient goes through a maximum's `taken` side: half where the sides are equal, as
// torch has it, and all of a NaN.
inline Floats share(Floats taken, Floats other) {
    const Floats tied = taken == other ? fill(0.5f) : fill(1.0f);
    return taken < other ? Floats{} : tied;
}

// `one_vector(i, left, totals)` handles WIDTH positions from `i`, of which `left` may be read.
template <int N, typename OneVector>
void sum_blocks(std::int64_t count, int threads, double* parts, const OneVector& one_vector) {
    const std::int64_t blocks = (count + kLossBlock - 1) / kLossBlock;
    const int used = worth(threads, static_cast<double>(count), 100e3);
#pragma omp parallel for schedule(static) num_threads(used) if (used > 1)
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t last = (block + 1) * kLossBlock;
        const std::int64_t end = last < count ? last : count;
        Totals<N> totals;
        for (std::int64_t begin = block * kLossBlock; begin < end; begin += kStretch) {
            const std::int64_t stop = begin + kStretch < end ? begin + kStretch : end;
            for (std::int64_t i = begin; i < stop; i += kWidth) one_vector(i, end - i, totals);
            totals.end_stretch();
        }
        totals.write(parts + block * kLossSums);
    }
    for (std::int64_t block = 1; block < blocks; ++block) {
        for (int i = 0; i < N; ++i) parts[i] += parts[block * kLossSums + i];
    }
}

inline Floats ones(Ints where) { return where ? fill(1.0f) : Floats{}; }

}  // namespace

void ppo_policy_loss(const PolicyLossArguments& a) {
    sum_blocks<6>(a.count, a.threads, a.parts, [&](std::int64_t i, std::int64_t left, auto& to) {
        const Ints inside = load_mask(a.mask + i, left);
        const Floats difference = load(a.logprobs + i, left) - load(a.old_logprobs + i, left);
        const Floats log_ratio = inside ? difference : Floats{};
        const Floats loss_of_one = inside ? -load(a.advantages + i, left) : Floats{};
        const Floats ratio = exp(log_ratio);
        const Floats bounded = ratio < a.lowest ? fill(a.lowest) : ratio;
        const Floats clipped_ratio = bounded > a.highest ? fill(a.highest) : bounded;
        const Floats free = loss_of_one * ratio;
        const Floats clipped = loss_of_one * clipped_ratio;
        const Floats counted = inside ? ratio : Floats{};
        to.now[0] += larger_or_nan(free, clipped);
        to.now[1] += ones(inside);
        to.now[2] += log_ratio * log_ratio;
        to.now[3] += ones(inside & (clipped > free));
        to.now[4] += counted;
        to.now[5] += counted * counted;
        if (a.gradient == nullptr) return;
        const Ints within = (ratio >= a.lowest) & (ratio <= a.highest);
        const Floats passed = share(free, clipped) + (within ? share(clipped, free) : Floats{});
        const Floats slope = loss_of_one * passed * ratio;
        store(a.gradient + i, inside ? slope : Floats{}, left);
    });
    const bool any = a.count > 0;
    *a.loss = any ? static_cast<float>(a.parts[0]) : 0.0f;
    for (int i = 1; i < 6; ++i) {
        const double factor = i == 2 ? 0.5 : 1.0;
        a.sums[i - 1] = any ? static_cast<float>(factor * a.parts[i]) : 0.0f;
    }
}

void ppo_value_loss(const ValueLossArguments& a) {
    sum_blocks<3>(a.count, a.threads, a.parts, [&](std::int64_t i, std::int64_t left, auto& to) {
        const Ints inside = load_mask(a.mask + i, left);
        const Floats value = inside ? load(a.values + i, left) : Floats{};
        const Floats target = inside ? load(a.returns + i, left) : Floats{};
        const Floats distance = value - target;
        const Floats free = distance * distance;
        Floats error = free;
        Floats passed = fill(1.0f);
        if (a.clipped) {
            const Floats old = inside ? load(a.old_values + i, left) : Floats{};
            const Floats lowest = old - a.clip;
            const Floats highest = old + a.clip;
            const Ints within = (value >= lowest) & (value <= highest);
            // Unequal to itself where the old value is NaN, as torch.clamp has it.
            const Floats bounded = value >= lowest ? value : lowest;
            const Floats clipped_value = bounded > highest ? highest : bounded;
            const Floats clipped_distance = clipped_value - target;
            const Floats clipped = clipped_distance * clipped_distance;
            error = larger_or_nan(free, clipped);
            passed = share(free, clipped) + (within ? share(clipped, free) : Floats{});
            to.now[2] += ones(inside & (clipped > free));
        }
        to.now[0] += error;
        to.now[1] += ones(inside);
        if (a.gradient == nullptr) return;
        store(a.gradient + i, inside ? distance * passed : Floats{}, left);
    });
    const bool any = a.count > 0;
    *a.loss = any ? static_cast<float>(0.5 * a.parts[0]) : 0.0f;
    a.sums[0] = any ? static_cast<float>(a.parts[1]) : 0.0f;
    a.sums[1] = any ? static_cast<float>(a.parts[2]) : 0.0f;
}

}  // namespace fairlead::FAIRLEAD_ISA
