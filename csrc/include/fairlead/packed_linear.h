// Rows times a matrix of weights laid out in panels, over raw pointers; the caller has checked what
// they lead to.
//
//   out[n, o] = f(bias[o] + sum_i rows[n, i] panels[o / 16, i, o % 16]), f nothing or GPT-2's GELU.
//
// Each result is summed in one order, whatever the number of rows: a row's bits are its own.
#pragma once

#include <cstdint>

namespace fairlead {

struct PackedLinearArguments {
    const float* rows;    // [count, inputs]
    const float* panels;  // [ceil(outputs / 16), inputs, 16]
    const float* bias;    // [outputs], or nullptr.
    float* out;           // [count, outputs]
    std::int64_t count;
    std::int64_t inputs;
    std::int64_t outputs;
    std::int64_t stride;  // Elements from one of the rows to the next.
    bool gelu;
    int threads;  // At most so many; a result does not depend on it.
};

}  // namespace fairlead
