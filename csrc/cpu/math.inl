// exp of WIDTH floats at a time, and the pieces of it that other functions are made of.
namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

// x = n ln 2 + r with |r| <= ln(2) / 2 and n whole. x must lie in [-104, 104], or be NaN.
struct Reduced {
    Ints n;
    Floats r;
};

inline Reduced reduce(Floats x) {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const Floats shifter = fill(12582912.0f);
    const Floats shifted = x * 1.44269504f + shifter;
    const Floats whole = shifted - shifter;
    // ln 2 in two parts; whole times the first is exact.
    Floats r = fused(whole, fill(-0.693359375f), x);
    r = fused(whole, fill(2.12194440e-4f), r);
    return {(Ints)shifted - (Ints)shifter, r};
}

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

// To 1 ulp, subnormal results included; exp(-inf) = 0, exp(0) = 1, NaN stays NaN.
inline Floats exp(Floats x) {
    // Past these bounds the result is 0 or infinite either way; NaN fails both comparisons.
    x = x < -104.0f ? fill(-104.0f) : x;
    x = x > 104.0f ? fill(104.0f) : x;
    const Reduced at = reduce(x);
    const Floats tail = exp_tail(at.r) * at.r;
    const Floats mantissa = fused(tail, at.r, at.r) + 1.0f;
    // In two steps, since 2^n itself need not be a normal float.
    const Ints half = at.n >> 1;
    return mantissa * power_of_two(half) * power_of_two(at.n - half);
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
