// Two passes: the moments of each block about one of its own elements, in double, then the result.
// An element is never more than sqrt(count) deviations from the mean, so nothing cancels in double
// whatever the mean, and one sweep is enough.
#include "fairlead/whiten.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

Moments block_moments(const float* x, const std::uint8_t* mask, std::int64_t count) {
    const void* first = std::memchr(mask, 1, static_cast<std::size_t>(count));
    if (first == nullptr) return {0.0, 0.0, 0.0};
    const float pivot = x[static_cast<const std::uint8_t*>(first) - mask];
    const Doubles about = static_cast<double>(pivot) - Doubles{};
    Doubles low = {}, high = {}, low_squares = {}, high_squares = {};
    Ints inside_count = {};
    for (std::int64_t i = 0; i < count; i += kWidth) {
        const Ints inside = load_mask(mask + i, count - i);
        const Floats value = inside ? load(x + i, count - i) : fill(pivot);
        const Doubles a = low_half(value) - about;
        const Doubles b = high_half(value) - about;
        low += a;
        high += b;
        low_squares += a * a;
        high_squares += b * b;
        inside_count -= inside;
    }
    double n = 0.0;
    for (int i = 0; i < kWidth; ++i) n += inside_count[i];
    const double shift = sum(low + high) / n;
    return {n, pivot + shift, sum(low_squares + high_squares) - n * shift * shift};
}

struct Whitening {
    float mean;
    float rest;  // What rounding left of the mean.
    float scale;
};

Whitening combine(const Moments* parts, std::int64_t blocks, double eps) {
    double count = 0.0, total = 0.0, squares = 0.0;
    for (std::int64_t i = 0; i < blocks; ++i) {
        count += parts[i].count;
        total += parts[i].count * parts[i].mean;
    }
    const double n = count > 1.0 ? count : 1.0;
    const double mean = total / n;
    for (std::int64_t i = 0; i < blocks; ++i) {
        const double away = parts[i].mean - mean;
        // A part without positions must not bring in 0 * inf.
        if (parts[i].count > 0.0) squares += parts[i].squares + parts[i].count * away * away;
    }
    const float rounded = static_cast<float>(mean);
    return {rounded, static_cast<float>(mean - rounded),
            static_cast<float>(1.0 / __builtin_sqrt(squares / n + eps))};
}

void whiten_block(const WhitenArguments& a, const Whitening& by, std::int64_t begin,
                  std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += kWidth) {
        const Ints inside = load_mask(a.mask + i, end - i);
        Floats value = (load(a.x + i, end - i) - by.mean - by.rest) * by.scale;
        if (!a.shift_mean) value += by.mean;
        store(a.result + i, inside ? value : Floats{}, end - i);
    }
}

// Shared out among the threads of the parallel region around it; all have ended when it returns.
void whiten_blocks(const WhitenArguments& a) {
    const std::int64_t blocks = (a.count + kMomentsBlock - 1) / kMomentsBlock;
#pragma omp for schedule(static)
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t begin = block * kMomentsBlock;
        const std::int64_t left = a.count - begin;
        a.parts[block] =
            block_moments(a.x + begin, a.mask + begin, left < kMomentsBlock ? left : kMomentsBlock);
    }
    const Whitening by = combine(a.parts, blocks, a.eps);  // Each thread for itself.
#pragma omp for schedule(static)
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t begin = block * kMomentsBlock;
        const std::int64_t end = begin + kMomentsBlock;
        whiten_block(a, by, begin, end < a.count ? end : a.count);
    }
}

}  // namespace

void whiten(const WhitenArguments& a) {
    const int threads = worth(a.threads, static_cast<double>(a.count), 200e3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    whiten_blocks(a);
}

}  // namespace fairlead::FAIRLEAD_ISA
