// What the CPU kernels share, compiled once for each instruction set: the including file defines
// FAIRLEAD_ISA (a namespace) and FAIRLEAD_WIDTH (4, 8 or 16 lanes), CMake gives it the flags.
// Everything is in an unnamed namespace: an inline function compiled here for AVX-512 must never be
// the one that the linker keeps for the whole module.
#include <cstdint>
#include <cstring>
#include <utility>

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
#elif FAIRLEAD_WIDTH == 8
        const Ints inside = kLanes < static_cast<std::int32_t>(count);
        result = (Floats)_mm256_maskload_ps(source, (__m256i)inside);
#else
        std::memcpy(&result, source, sizeof(float) * static_cast<std::size_t>(count));
#endif
    }
    return result;
}

// The same without a branch, for a count that no branch predictor can know; any count.
inline Floats load_ragged(const float* source, std::int64_t count) {
#if FAIRLEAD_WIDTH == 16
    const int lanes = static_cast<int>(count < 0 ? 0 : (count < kWidth ? count : kWidth));
    return (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1u), source);
#elif FAIRLEAD_WIDTH == 8
    const auto lanes = static_cast<std::int32_t>(count < 0 ? 0 : (count < kWidth ? count : kWidth));
    return (Floats)_mm256_maskload_ps(source, (__m256i)(kLanes < lanes));
#else
    return load(source, count);
#endif
}

inline void store(float* target, Floats value, std::int64_t count) {
    if (count >= kWidth) {
        std::memcpy(target, &value, sizeof(Floats));
    } else if (count > 0) {
#if FAIRLEAD_WIDTH == 16
        _mm512_mask_storeu_ps(target, static_cast<__mmask16>((1u << count) - 1u), (__m512)value);
#elif FAIRLEAD_WIDTH == 8
        const Ints inside = kLanes < static_cast<std::int32_t>(count);
        _mm256_maskstore_ps(target, (__m256i)inside, (__m256)value);
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

// Lane i holds lane Index(i) of `a` and, after its WIDTH lanes, of `b`.
template <int (*Index)(int), int... Lane>
inline Floats pick(Floats a, Floats b, std::integer_sequence<int, Lane...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Index(Lane)...);
#else
    return __builtin_shuffle(a, b, Ints{Index(Lane)...});
#endif
}

template <int (*Index)(int)>
inline Floats pick(Floats a, Floats b) {
    return pick<Index>(a, b, std::make_integer_sequence<int, kWidth>{});
}

// (a0, b0, a1, b1, ...), from the lower and from the upper half of both.
constexpr int low_index(int lane) { return lane / 2 + lane % 2 * kWidth; }
constexpr int high_index(int lane) { return kWidth / 2 + low_index(lane); }
inline Floats interleave_low(Floats a, Floats b) { return pick<low_index>(a, b); }
inline Floats interleave_high(Floats a, Floats b) { return pick<high_index>(a, b); }

// Asks for `Count` elements from `at` on to be brought into the cache; never a fault.
template <int Count, typename T>
inline void fetch(const T* at) {
    constexpr int kLine = 64 / sizeof(T);
    for (int i = 0; i < Count; i += kLine) __builtin_prefetch(at + i);
}

#define FAIRLEAD_UNROLL _Pragma("GCC unroll 16")

// The mask is a prefix of the row: its length is where the first zero byte stands.
inline std::int64_t prefix_length(const std::uint8_t* mask, std::int64_t cols) {
    const void* end = std::memchr(mask, 0, static_cast<std::size_t>(cols));
    return end == nullptr ? cols : static_cast<const std::uint8_t*>(end) - mask;
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
