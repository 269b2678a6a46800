// Every operation but k3 is the torch reference's, in its order: there the bits are the same.
#include "fairlead/kl_rewards.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// (exp(r) - 1 - r) / r^2: what is left out is below 1e-8 of it.
inline Floats exp_tail(Floats r) {
    Floats q = fused(r, fill(1.0f / 40320.0f), fill(1.0f / 5040.0f));
    q = fused(q, r, fill(1.0f / 720.0f));
    q = fused(q, r, fill(1.0f / 120.0f));
    q = fused(q, r, fill(1.0f / 24.0f));
    q = fused(q, r, fill(1.0f / 6.0f));
    return fused(q, r, fill(0.5f));
}

// 2^n for n in [-126, 127].
inline Floats power_of_two(Ints n) { return (Floats)((n + 127) << 23); }

// exp(x) - 1 - x, never negative. With x = n log 2 + r and s = 2^n it is
// s (exp(r) - 1 - r) + (s r - x + s - 1): near zero n = 0, the bracket is exactly 0, and what is
// left is r^2 times something positive. expm1(x) - x would be off by an ulp of x there. It is
// formed at half its size, since 2^128 is not a float.
inline Floats exp_minus_line(Floats x) {
    // exp is lost against 1 + x below -86, and overflows above 88.72.
    Floats inner = x < -86.0f ? fill(-86.0f) : x;
    inner = inner > 89.0f ? fill(89.0f) : inner;
    const Reduced at = reduce(inner);
    const Floats half = power_of_two(at.n - 1);
    const Floats line = fused(half, at.r, half - 0.5f - 0.5f * x);
    const Floats result = 2.0f * fused(half * at.r * at.r, exp_tail(at.r), line);
    return x > 89.0f ? kInfinity - x : result;
}

inline Floats estimate_kl(int estimator, Floats log_ratio) {
    if (estimator == 1) return log_ratio;
    if (estimator == 2) return 0.5f * (log_ratio * log_ratio);
    return exp_minus_line(-log_ratio);
}

struct KlReward {
    Floats kl;
    Floats reward;  // Without the row's score.
};

// Of WIDTH positions from `at`, of which `count` may be read; zeros outside the mask.
inline KlReward kl_reward(const KlRewardsArguments& a, std::int64_t at, std::int64_t count,
                          Ints inside) {
    Floats kl;
    if (a.given_kl != nullptr) {
        kl = load(a.given_kl + at, count);
    } else {
        const Floats ratio = load(a.logprobs + at, count) - load(a.ref_logprobs + at, count);
        kl = estimate_kl(a.estimator, inside ? ratio : Floats{});
    }
    kl = inside ? kl : Floats{};
    Floats reward = 0.0f - a.beta * kl;
    if (a.token_scores != nullptr) {
        reward = reward + (inside ? load(a.token_scores + at, count) : Floats{});
    }
    return {kl, reward};
}

// Where the last byte that is set stands, or -1.
inline std::int64_t last_set(const std::uint8_t* mask, std::int64_t cols) {
    constexpr std::int64_t kWord = sizeof(std::uint64_t);
    std::int64_t end = cols;
    for (std::uint64_t word = 0; end >= kWord; end -= kWord) {
        std::memcpy(&word, mask + end - kWord, sizeof(word));
        if (word != 0) break;
    }
    while (end > 0 && mask[end - 1] == 0) --end;
    return end - 1;
}

void kl_rewards_row(const KlRewardsArguments& a, std::int64_t row) {
    const std::int64_t base = row * a.cols;
    for (std::int64_t t = 0; t < a.cols; t += kWidth) {
        const std::int64_t count = a.cols - t;
        const KlReward result = kl_reward(a, base + t, count, load_mask(a.mask + base + t, count));
        store(a.kl + base + t, result.kl, count);
        store(a.rewards + base + t, result.reward, count);
    }
    const std::int64_t last = last_set(a.mask + base, a.cols);
    if (last >= 0) a.rewards[base + last] += a.scores[row];
}

}  // namespace

void kl_rewards(const KlRewardsArguments& a) {
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.cols);
    const int threads = worth(a.threads, work, 200e3);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t row = 0; row < a.rows; ++row) kl_rewards_row(a, row);
}

}  // namespace fairlead::FAIRLEAD_ISA
