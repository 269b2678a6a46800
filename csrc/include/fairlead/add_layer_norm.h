// A residual sum and its layer normalisation, row by row, over raw pointers to contiguous float32.
//
//   sum = x + other,  out = (sum - mean) / sqrt(variance + eps) * weight + bias
#pragma once

#include <cstdint>

namespace fairlead {

struct AddLayerNormArguments {
    const float* x;       // [count, width]
    const float* other;   // [count, width]
    const float* weight;  // [width]
    const float* bias;    // [width]
    float* sum;           // [count, width]
    float* out;           // [count, width]
    std::int64_t count;
    std::int64_t width;
    double eps;
    int threads;  // At most so many.
};

}  // namespace fairlead
