// One row times a matrix of weights, over raw pointers; the caller has checked what they lead to.
//
//   out[j] = bias[j] + sum_i row[i] weight[j, i]
//
// There is nothing to do but to read the weights once, in the order in which they lie.
#pragma once

#include <cstdint>

namespace fairlead {

struct RowLinearArguments {
    const float* row;     // [inputs]
    const float* weight;  // [outputs, inputs], or [inputs, outputs] where `inputs_first`.
    const float* bias;    // [outputs], or nullptr.
    float* out;           // [outputs]
    std::int64_t inputs;
    std::int64_t outputs;
    std::int64_t stride;  // Elements from one row of the weight, as it lies, to the next.
    bool inputs_first;
    int threads;  // At most so many; a result does not depend on it.
};

}  // namespace fairlead
