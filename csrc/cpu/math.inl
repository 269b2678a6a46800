// Functions of a vector of floats.
namespace fairlead::FAIRLEAD_ISA {
namespace {

inline Floats select(Ints where, Floats a, Floats b) {
    return (Floats)((where & (Ints)a) | (~where & (Ints)b));
}

// e^x within 1 ulp, subnormal results too: -inf gives 0, +inf inf, NaN NaN. x is n log 2 + r with
// |r| <= log(2) / 2; e^r is 1 + r + r^2 P(r), P the best of its degree by relative error.
inline Floats exp(Floats x) {
    x = select(x < fill(-105.0f), fill(-105.0f), x);
    x = select(x > fill(90.0f), fill(90.0f), x);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const Floats shifter = fill(0x1.8p23f);
    const Floats shifted = fused(x, fill(0x1.715476p0f), shifter);
    const Floats n = shifted - shifter;
    // log 2 in two parts; the first has 12 bits, so that n times it is exact.
    Floats r = fused(n, fill(-0x1.62ep-1f), x);
    r = fused(n, fill(-0x1.0bfbe8p-15f), r);
    Floats p = fill(0x1.6a23ccp-10f);
    p = fused(p, r, fill(0x1.123a2p-7f));
    p = fused(p, r, fill(0x1.5558f2p-5f));
    p = fused(p, r, fill(0x1.555492p-3f));
    p = fused(p, r, fill(0x1.fffffcp-2f));
    p = fused(p * r, r, r) + 1.0f;
#if FAIRLEAD_WIDTH == 16
    // GCC warns about _mm512_scalef_ps itself; with a full mask it is the same instruction.
    return (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
    // 2^n in two factors: n reaches -151, where 2^n is no float.
    const Ints whole = (Ints)shifted - (Ints)shifter;
    const Ints half = whole >> 1;
    const Floats low = (Floats)((half + 127) << 23);
    const Floats high = (Floats)((whole - half + 127) << 23);
    return p * low * high;
#endif
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
