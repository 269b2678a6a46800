// What the CPU kernels share, compiled once for each instruction set: the including file defines
// FAIRLEAD_ISA (a namespace) and FAIRLEAD_WIDTH (4, 8 or 16 lanes), CMake gives it the flags.
// Everything is in an unnamed namespace: an inline function compiled here for AVX-512 must never be
// the one that the linker keeps for the whole module.
#include <cstdint>
#include <cstring>

#ifdef FAIRLEAD_X86
#include <immintrin.h>
#endif

namespace fairlead::FAIRLEAD_ISA {
namespace {

constexpr int kWidth = FAIRLEAD_WIDTH;
typedef float Floats __attribute__((vector_size(4 * FAIRLEAD_WIDTH)));
typedef std::int32_t Ints __attribute__((vector_size(4 * FAIRLEAD_WIDTH)));

#if FAIRLEAD_WIDTH == 16
constexpr Ints kLanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif FAIRLEAD_WIDTH == 8
constexpr Ints kLanes = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr Ints kLanes = {0, 1, 2, 3};
#endif

// The first `count` floats at `source`, zeros after them; nothing past them is read.
inline Floats load(const float* source, std::int64_t count) {
    Floats result = {};
    if (count >= kWidth) {
        std::memcpy(&result, source, sizeof(Floats));
    } else if (count > 0) {
#if FAIRLEAD_WIDTH == 16
        result = (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), source);
#else
        std::memcpy(&result, source, sizeof(float) * static_cast<std::size_t>(count));
#endif
    }
    return result;
}

inline void store(float* target, Floats value, std::int64_t count) {
    if (count >= kWidth) {
        std::memcpy(target, &value, sizeof(Floats));
    } else if (count > 0) {
#if FAIRLEAD_WIDTH == 16
        _mm512_mask_storeu_ps(target, static_cast<__mmask16>((1u << count) - 1u), (__m512)value);
#else
        std::memcpy(target, &value, sizeof(float) * static_cast<std::size_t>(count));
#endif
    }
}

inline Floats fill(float value) { return value - Floats{}; }

// a * b + c, rounded once where the processor can. Everywhere else contraction is off, so that a
// kernel which promises torch's own bits keeps them.
inline Floats fused(Floats a, Floats b, Floats c) {
#if FAIRLEAD_WIDTH == 16
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FAIRLEAD_WIDTH == 8
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// (a0, b0, a1, b1, ...), from the lower and from the upper half of both.
#if FAIRLEAD_WIDTH == 16
#define FAIRLEAD_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FAIRLEAD_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif FAIRLEAD_WIDTH == 8
#define FAIRLEAD_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define FAIRLEAD_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FAIRLEAD_LOW 0, 4, 1, 5
#define FAIRLEAD_HIGH 2, 6, 3, 7
#endif

#ifdef __clang__
inline Floats interleave_low(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, FAIRLEAD_LOW);
}
inline Floats interleave_high(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, FAIRLEAD_HIGH);
}
#else
inline Floats interleave_low(Floats a, Floats b) {
    return __builtin_shuffle(a, b, Ints{FAIRLEAD_LOW});
}
inline Floats interleave_high(Floats a, Floats b) {
    return __builtin_shuffle(a, b, Ints{FAIRLEAD_HIGH});
}
#endif
#undef FAIRLEAD_LOW
#undef FAIRLEAD_HIGH

#define FAIRLEAD_UNROLL _Pragma("GCC unroll 16")

// The mask is a prefix of the row: its length is where the first zero byte stands.
inline std::int64_t prefix_length(const std::uint8_t* mask, std::int64_t cols) {
    const void* end = std::memchr(mask, 0, static_cast<std::size_t>(cols));
    return end == nullptr ? cols : static_cast<const std::uint8_t*>(end) - mask;
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
