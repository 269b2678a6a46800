// Causal attention within sequences that lie end to end in one row, over raw pointers; the caller
// has checked what they lead to.
//
//   out[i, h] = sum_j softmax_j(scale * query[i, h] . keys[j, h / group]) values[j, h / group]
//
// over the positions j <= i of i's sequence, group = heads / kv_heads. Sequence b has the positions
// from offsets[b] to offsets[b + 1]; those past the last offset are no one's, their results zero.
#pragma once

#include <cstdint>

#include "fairlead/float_type.h"

namespace fairlead {

// [positions, heads, dim]; the stride of the last dimension is 1, the others are in elements.
struct HeadRows {
    void* data;
    std::int64_t position_stride;
    std::int64_t head_stride;
};

struct RaggedAttentionArguments {
    HeadRows query;
    HeadRows keys;  // Of kv_heads heads, as the values.
    HeadRows values;
    const std::int64_t* offsets;  // [sequences + 1], rising.
    std::int64_t sequences;
    std::int64_t positions;
    std::int64_t heads;
    std::int64_t kv_heads;
    std::int64_t dim;
    float scale;
    FloatType type;  // Of everything but `logsums`.
    int threads;     // At most so many; a result does not depend on it.
};

struct RaggedAttentionForward {
    RaggedAttentionArguments common;
    void* out;       // [positions, heads, dim], contiguous.
    float* logsums;  // [positions, heads]: the logarithm of the softmax's denominator.
};

// Gradients are contiguous, of the shapes of what they are the gradients of.
struct RaggedAttentionBackward {
    RaggedAttentionArguments common;
    const void* out;
    const float* logsums;
    HeadRows grad_out;
    void* grad_query;
    void* grad_keys;
    void* grad_values;
};

}  // namespace fairlead
