// Masks of one byte a position, and sums in double that come out the same whatever the number of
// threads: the data is cut into blocks of a fixed size, and the blocks' sums are added in order.
namespace fairlead::FAIRLEAD_ISA {
namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(FAIRLEAD_WIDTH)));
typedef float HalfFloats __attribute__((vector_size(2 * FAIRLEAD_WIDTH)));
typedef double Doubles __attribute__((vector_size(4 * FAIRLEAD_WIDTH)));

// All bits set where a byte of the mask is; nothing past `count` bytes is read. (GCC converts bytes
// to lanes one at a time where it is left to itself, and floats to doubles in quarters. The masked
// forms of the intrinsics are those that GCC 12 takes without a false warning.)
inline Ints load_mask(const std::uint8_t* mask, std::int64_t count) {
    Bytes bytes = {};
    if (count >= kWidth) {
        std::memcpy(&bytes, mask, sizeof(Bytes));
    } else if (count > 0) {
        std::memcpy(&bytes, mask, static_cast<std::size_t>(count));
    }
#if FAIRLEAD_WIDTH == 16
    return (Ints)_mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)bytes) != 0;
#elif FAIRLEAD_WIDTH == 8
    return (Ints)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)) != 0;
#else
    return __builtin_convertvector(bytes, Ints) != 0;
#endif
}

#if FAIRLEAD_WIDTH == 16
template <int Which>
inline Doubles half_of(Floats x) {
    const __m256d half = _mm512_maskz_extractf64x4_pd(0xff, (__m512d)x, Which);
    return (Doubles)_mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(half));
}
#elif FAIRLEAD_WIDTH == 8
template <int Which>
inline Doubles half_of(Floats x) {
    return (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, Which));
}
#else
template <int Which>
inline Doubles half_of(Floats x) {
    HalfFloats half;
    const char* bytes = reinterpret_cast<const char*>(&x) + Which * sizeof(HalfFloats);
    std::memcpy(&half, bytes, sizeof(HalfFloats));
    return __builtin_convertvector(half, Doubles);
}
#endif

inline Doubles low_half(Floats x) { return half_of<0>(x); }
inline Doubles high_half(Floats x) { return half_of<1>(x); }

inline double sum(Doubles x) {
    double lanes[kWidth / 2];
    std::memcpy(lanes, &x, sizeof(Doubles));
    double total = 0.0;
    for (double lane : lanes) total += lane;
    return total;
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
