// Elementary functions and reductions over a vector.
#include <limits>

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp is 0 from here down: half the smallest denormal is exp(-103.97).
constexpr float kExpZero = -104.0f;

// The larger; of `floor` and NaN, NaN.
inline Floats at_least(Floats x, float floor) {
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_maskz_max_ps(0xffff, _mm512_set1_ps(floor), (__m512)x);
#elif FAIRLEAD_WIDTH == 8
    return (Floats)_mm256_max_ps(_mm256_set1_ps(floor), (__m256)x);
#else
    const Floats low = fill(floor);
    return x < low ? low : x;
#endif
}

// The larger; `a` where either is NaN.
inline Floats maximum(Floats a, Floats b) {
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_maskz_max_ps(0xffff, (__m512)b, (__m512)a);
#elif FAIRLEAD_WIDTH == 8
    return (Floats)_mm256_max_ps((__m256)b, (__m256)a);
#else
    return b > a ? b : a;
#endif
}

// exp x for kExpZero <= x, or NaN, within an ulp: 2^n exp r with n the integer next to x / log 2.
// The polynomial is a minimax fit of exp on |r| <= log(2) / 2, its error a twentieth of an ulp.
inline Floats exp_above(Floats x) {
    const Floats magic = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer.
    const Floats shifted = fused(x, fill(1.44269504f), magic);
    const Floats n = shifted - magic;
    // log 2 in two parts, the first with zeros at the end so that its product with n is exact.
    Floats r = fused(n, fill(-0.693359375f), x);
    r = fused(n, fill(2.12194440e-4f), r);
    Floats p = fill(0x1.6a2434p-10f);
    p = fused(p, r, fill(0x1.1239e2p-7f));
    p = fused(p, r, fill(0x1.5558f2p-5f));
    p = fused(p, r, fill(0x1.555492p-3f));
    p = fused(p, r, fill(0x1.fffffcp-2f));
    p = fused(p, r * r, r) + 1.0f;
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
    // In two halves, so that neither factor leaves the range and denormals are rounded once.
    const Ints whole = (Ints)shifted - 0x4b400000;
    const Ints half = whole >> 1;
    return p * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
#endif
}

// exp x, within an ulp; 0 for -inf, NaN for NaN.
inline Floats exp(Floats x) {
    const Floats high = fill(89.0f);
    const Floats bounded = x > high ? high : x;
    return exp_above(at_least(bounded, kExpZero));
}

// In double, so that the rounding is that of the lanes alone.
inline double sum_lanes(Floats x) {
    float lanes[kWidth];
    std::memcpy(lanes, &x, sizeof(lanes));
    double sums[4] = {lanes[0], lanes[1], lanes[2], lanes[3]};
    for (int i = 4; i < kWidth; ++i) sums[i % 4] += lanes[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

inline float max_lanes(Floats x) {
    float lanes[kWidth];
    std::memcpy(lanes, &x, sizeof(lanes));
    float result = lanes[0];
    for (int i = 1; i < kWidth; ++i) result = lanes[i] > result ? lanes[i] : result;
    return result;
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
