// Vectors of float32 from and to memory that holds float32, bfloat16 or float16.
#include <type_traits>

namespace fairlead::FAIRLEAD_ISA {
namespace {

typedef std::uint16_t Halves __attribute__((vector_size(2 * FAIRLEAD_WIDTH)));
typedef std::uint32_t Bits __attribute__((vector_size(4 * FAIRLEAD_WIDTH)));

// Types of their own, so that which one memory holds is a template argument.
struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

inline Floats widen(Bfloat16, Halves x) { return (Floats)(__builtin_convertvector(x, Bits) << 16); }

inline Halves narrow(Bfloat16, Floats x) {
    const Bits bits = (Bits)x;
    const Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);  // To nearest, ties to even.
    const Bits result = x == x ? rounded : bits | 0x400000u;    // NaN must not round to infinity.
    return __builtin_convertvector(result >> 16, Halves);
}

#if FAIRLEAD_WIDTH == 16
inline Floats widen(Float16, Halves x) { return (Floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)x); }
inline Halves narrow(Float16, Floats x) {
    return (Halves)_mm512_maskz_cvtps_ph(0xffff, (__m512)x,
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
inline Floats widen(Float16, Halves x) {
    const Bits bits = __builtin_convertvector(x, Bits);
    const Bits magnitude = (bits & 0x7fffu) << 13;
    // 2^112 is what the exponents' biases differ by; the product makes denormals normal.
    const Floats scaled = (Floats)magnitude * 0x1p112f;
    const Bits special = (Bits)(magnitude >= (0x7c00u << 13));
    const Bits value = ((Bits)scaled & ~special) | ((magnitude | 0x7f800000u) & special);
    return (Floats)(value | ((bits & 0x8000u) << 16));
}

inline Halves narrow(Float16, Floats x) {
    const Bits sign = ((Bits)x >> 16) & 0x8000u;
    const Bits magnitude = (Bits)x & 0x7fffffffu;
    // Normal results: rebias, round to nearest, ties to even; a carry goes on into the exponent.
    const Bits normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14 the sum with 1/2 puts the result's last bit where float32 rounds.
    const Bits tiny = (Bits)((Floats)magnitude + 0.5f) - 0x3f000000u;
    Bits result = magnitude < (113u << 23) ? tiny : normal;
    result = magnitude >= 0x477ff000u ? Bits{} + 0x7c00u : result;  // 65520 and up is infinity.
    result = magnitude > 0x7f800000u ? Bits{} + 0x7e00u : result;   // NaN
    return __builtin_convertvector(result | sign, Halves);
}
#endif

// The first `count` numbers at `source`, zeros after them, as load() has it for float32.
template <typename T>
inline Floats load(const T* source, std::int64_t count) {
    Halves raw = {};
    const auto bytes = sizeof(T) * static_cast<std::size_t>(count);
    std::memcpy(&raw, source, count < kWidth ? bytes : sizeof(raw));
    return widen(T{}, raw);
}

// The first `count` numbers at `source`, -infinity after them; nothing past them is read.
template <typename T>
inline Floats load_logits(const T* source, std::int64_t count) {
    if (count >= kWidth) return load(source, kWidth);
    T part[kWidth] = {};
    std::memcpy(part, source, sizeof(T) * static_cast<std::size_t>(count));
    return kLanes < static_cast<std::int32_t>(count) ? load(part, kWidth) : fill(-kInfinity);
}

template <typename T>
inline void store_as(T* target, Floats value, std::int64_t count) {
    if constexpr (std::is_same_v<T, float>) {
        store(target, value, count);
    } else {
        const Halves raw = narrow(T{}, value);
        std::memcpy(target, &raw,
                    count >= kWidth ? sizeof(raw) : sizeof(T) * static_cast<std::size_t>(count));
    }
}

template <typename T>
inline float load_one(const T* source) {
    return load_logits(source, 1)[0];
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
