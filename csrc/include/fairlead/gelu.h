// GPT-2's approximation of GELU over raw pointers to contiguous memory, and its gradient.
//
//   gelu(x) = x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3)))
#pragma once

#include <cstdint>

#include "fairlead/float_type.h"

namespace fairlead {

struct GeluArguments {
    const void* x;
    const void* grad;  // Of the result; nullptr where the result is wanted, not the gradient.
    void* out;         // gelu(x), or gelu'(x) times `grad`.
    std::int64_t count;
    FloatType type;  // Of everything.
    int threads;     // At most so many.
};

}  // namespace fairlead
