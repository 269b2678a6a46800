// One exp and one division an element; everything else waits for the memory.
#include "fairlead/gelu.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// 2 sqrt(2 / pi), and that times 0.044715.
constexpr float kGeluSlope = 1.5957691216057308f;
constexpr float kGeluCube = 0.0713548162726009f;

// exp(-z), z = 2 sqrt(2 / pi) (x + 0.044715 x^3); x / (1 + that) is GELU.
inline Floats gelu_exp(Floats x) {
    const Floats z = x * fused(x * x, fill(kGeluCube), fill(kGeluSlope));
    // From -87 down exp is no normal number, which takes some processors a hundred cycles; added to
    // 1 it is nothing from -17 down.
    const Floats high = fill(89.0f);
    const Floats bounded = -z > high ? high : -z;
    return exp_above(at_least(bounded, -87.0f));
}

inline Floats gelu_of(Floats x) { return x / (1.0f + gelu_exp(x)); }

inline Floats gelu_slope(Floats x) {
    // Beyond, the gradient is 0 or 1, and x cubed may be infinite.
    const Floats end = fill(30.0f);
    x = x > end ? end : x;
    x = x < -end ? -end : x;
    const Floats other = gelu_exp(x);
    const Floats share = 1.0f / (1.0f + other);
    // 1 - share, where that would cancel and where `other` may be infinite.
    const Floats rest = select(share > fill(0.5f), other * share, 1.0f - share);
    const Floats rise = fused(x * x, fill(3.0f * kGeluCube), fill(kGeluSlope));
    return share * fused(x * rest, rise, fill(1.0f));
}

template <typename T>
void gelu_all(const GeluArguments& a) {
    const auto* x = static_cast<const T*>(a.x);
    const auto* grad = static_cast<const T*>(a.grad);
    auto* out = static_cast<T*>(a.out);
    const std::int64_t vectors = (a.count + kWidth - 1) / kWidth;
    const int threads = worth(a.threads, static_cast<double>(a.count), 30e3);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t v = 0; v < vectors; ++v) {
        const std::int64_t at = v * kWidth;
        const std::int64_t count = smaller(kWidth, a.count - at);
        const Floats given = load(x + at, count);
        const Floats result =
            grad == nullptr ? gelu_of(given) : gelu_slope(given) * load(grad + at, count);
        store_as(out + at, result, count);
    }
}

}  // namespace

void gelu(const GeluArguments& arguments) {
    switch (arguments.type) {
        case FloatType::kFloat32:
            return gelu_all<float>(arguments);
        case FloatType::kBfloat16:
            return gelu_all<Bfloat16>(arguments);
        case FloatType::kFloat16:
            return gelu_all<Float16>(arguments);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
