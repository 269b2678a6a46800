// Functions of a vector of floats.
namespace fairlead::FAIRLEAD_ISA {
namespace {

inline Floats select(Ints where, Floats a, Floats b) {
    return (Floats)((where & (Ints)a) | (~where & (Ints)b));
}

// e^x within 1 ulp; 0 below the smallest subnormal (and at -inf), inf above the largest float, NaN
// for NaN. x = n log 2 + r with |r| <= log(2) / 2, and e^r by its Taylor polynomial.
inline Floats exp(Floats x) {
    x = select(x < fill(-105.0f), fill(-105.0f), x);
    x = select(x > fill(90.0f), fill(90.0f), x);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const Floats shifter = fill(12582912.0f);
    const Floats shifted = fused(x, fill(1.44269504089f), shifter);
    const Floats n = shifted - shifter;
    // log 2 in two parts; the first has so few bits that n times it is exact.
    Floats r = fused(n, fill(-0.693359375f), x);
    r = fused(n, fill(2.12194440e-4f), r);
    Floats p = fill(1.0f / 5040);
    p = fused(p, r, fill(1.0f / 720));
    p = fused(p, r, fill(1.0f / 120));
    p = fused(p, r, fill(1.0f / 24));
    p = fused(p, r, fill(1.0f / 6));
    p = fused(p, r, fill(0.5f));
    p = fused(p * r, r, r) + 1.0f;
    // 2^n in two factors: n reaches -151, where 2^n is no float.
    const Ints whole = (Ints)shifted - (Ints)shifter;
    const Ints half = whole >> 1;
    const Floats low = (Floats)((half + 127) << 23);
    const Floats high = (Floats)((whole - half + 127) << 23);
    return p * low * high;
}

// Every lane holds the sum, or the largest, of all lanes.
inline Floats sum_across(Floats x) {
    for (int i = 1; i < kWidth; i *= 2) x = interleave_low(x, x) + interleave_high(x, x);
    return x;
}

inline Floats larger(Floats a, Floats b) { return select(a > b, a, b); }

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

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
