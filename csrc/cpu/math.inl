// Elementary functions, reductions over a vector, and the transposition of a square of vectors.
#include <cmath>
#include <limits>

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp is 0 from here down: half the smallest denormal is exp(-103.97).
constexpr float kExpZero = -104.0f;
constexpr float kPowerZero = -127.0f;  // Where power_of_2 is 0.
constexpr double kLog2 = 0.693147180559945309;

inline Floats select(Ints where, Floats a, Floats b) {
    return (Floats)((where & (Ints)a) | (~where & (Ints)b));
}

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

// The larger; `b` where either is NaN.
inline Floats larger(Floats a, Floats b) {
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif FAIRLEAD_WIDTH == 8
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select(a > b, a, b);
#endif
}

// x = n log 2 + r with n whole and |r| <= log(2) / 2, for x in [kExpZero, -kExpZero] or NaN.
struct Reduced {
    Floats whole;  // n
    Ints n;
    Floats r;
};

inline Reduced reduce(Floats x) {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const Floats magic = fill(12582912.0f);
    const Floats shifted = fused(x, fill(1.44269504f), magic);
    const Floats whole = shifted - magic;
    // log 2 in two parts, the first with zeros at the end so that its product with n is exact.
    Floats r = fused(whole, fill(-0.693359375f), x);
    r = fused(whole, fill(2.12194440e-4f), r);
    return {whole, (Ints)shifted - (Ints)magic, r};
}

// exp x for kExpZero <= x, or NaN, within an ulp: 2^n exp r with n the integer next to x / log 2.
// The polynomial is a minimax fit of exp on |r| <= log(2) / 2, its error a twentieth of an ulp.
inline Floats exp_above(Floats x) {
    const auto [whole, n, r] = reduce(x);
    Floats p = fill(0x1.6a2434p-10f);
    p = fused(p, r, fill(0x1.1239e2p-7f));
    p = fused(p, r, fill(0x1.5558f2p-5f));
    p = fused(p, r, fill(0x1.555492p-3f));
    p = fused(p, r, fill(0x1.fffffcp-2f));
    p = fused(p, r * r, r) + 1.0f;
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)whole);
#else
    // In two halves, so that neither factor leaves the range and denormals are rounded once.
    const Ints half = n >> 1;
    return p * (Floats)((half + 127) << 23) * (Floats)((n - half + 127) << 23);
#endif
}

// 2^t for kPowerZero <= t <= 0, within an ulp from -126 up, and exactly 1 at 0 and 0 at the end,
// with denormals that mean nothing between the end and -126. Of NaN anything. Has fewer
// instructions than exp_above, half of them without AVX-512: what is left of t after rounding is
// exact, and 2^n is an addition to the exponent. The polynomial is a minimax fit of 2^r on
// |r| <= 1/2, its error a twentieth of an ulp.
inline Floats power_of_2(Floats t) {
    const Floats magic = fill(12582912.0f);  // As in reduce().
    const Floats shifted = t + magic;
    const Floats r = t - (shifted - magic);
    Floats p = fill(0x1.416b5ep-13f);
    p = fused(p, r, fill(0x1.5f082ep-10f));
    p = fused(p, r, fill(0x1.3b2de0p-7f));
    p = fused(p, r, fill(0x1.c6af7cp-5f));
    p = fused(p, r, fill(0x1.ebfbdcp-3f));
    p = fused(p, r, fill(0x1.62e430p-1f));
    p = fused(p, r, fill(1.0f));
    return (Floats)((Ints)p + ((Ints)shifted << 23));
}

// exp x, within an ulp; 0 for -inf, NaN for NaN.
inline Floats exp(Floats x) {
    const Floats high = fill(89.0f);
    const Floats bounded = x > high ? high : x;
    return exp_above(at_least(bounded, kExpZero));
}

// The largest float that is at most log(tokens): no entropy of so many exceeds it.
inline float largest_entropy(std::int64_t tokens) {
    const double exact = std::log(static_cast<double>(tokens));
    const float rounded = static_cast<float>(exact);
    return rounded > exact ? std::nextafter(rounded, 0.0f) : rounded;
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

// Every lane holds the sum, or the largest, of all lanes.
inline Floats sum_across(Floats x) {
    for (int i = 1; i < kWidth; i *= 2) x = interleave_low(x, x) + interleave_high(x, x);
    return x;
}

inline Floats max_across(Floats x) {
    for (int i = 1; i < kWidth; i *= 2) x = larger(interleave_low(x, x), interleave_high(x, x));
    return x;
}

// Lane i holds the sum of the lanes of x[i].
inline Floats sums(const Floats (&x)[kWidth]) {
    Floats part[kWidth];
    FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) part[i] = x[i];
    FAIRLEAD_UNROLL for (int half = kWidth / 2; half > 0; half /= 2) {
        FAIRLEAD_UNROLL for (int i = 0; i < half; ++i) {
            part[i] =
                interleave_low(part[i], part[i + half]) + interleave_high(part[i], part[i + half]);
        }
    }
    return part[0];
}

// Of two rows of a matrix that are D apart, cut into pieces of D: the first row's odd pieces for
// the second row's even ones.
template <int D>
constexpr int upper_row(int lane) {
    return (lane & D) == 0 ? lane : kWidth + lane - D;
}
template <int D>
constexpr int lower_row(int lane) {
    return (lane & D) == 0 ? lane + D : kWidth + lane;
}

// Transposes by quarters, then each quarter by its own, down to single numbers. The loops are
// unrolled, so that the tile stays in registers.
template <int D = kWidth / 2>
inline void transpose(Floats (&tile)[kWidth]) {
    FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) {
        if ((i & D) != 0) continue;
        const Floats upper = tile[i];
        const Floats lower = tile[i + D];
        tile[i] = pick<upper_row<D>>(upper, lower);
        tile[i + D] = pick<lower_row<D>>(upper, lower);
    }
    if constexpr (D > 1) transpose<D / 2>(tile);
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
