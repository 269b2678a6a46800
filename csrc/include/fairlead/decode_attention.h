// Attention of one query a row against a preallocated cache, over raw pointers. No torch, no
// Python: the caller has checked shapes, dtypes, devices, strides and lengths before a pointer
// comes here.
//
//   out[b, h] = sum_s softmax_s(scale * query[b, h] . keys[b, h / group, s]) values[b, h / group,
//   s]
//
// over the first lengths[b] positions, group = heads / kv_heads. Where there are new keys and
// values, one a row and key/value head, they are first stored in the last of these positions.
#pragma once

#include <cstdint>

#include "fairlead/float_type.h"

namespace fairlead {

// Strides are in elements, that of the last dimension is 1. Positions past a row's length are never
// read; a row of length 0 gives zeros.
struct DecodeAttentionArguments {
    const float* query;  // [batch, heads, dim]
    void* keys;          // [batch, kv_heads, positions, dim]; written to where there are new ones.
    void* values;        // The same.
    const float* new_keys;        // [batch, kv_heads, dim], or nullptr.
    const float* new_values;      // The same.
    const std::int64_t* lengths;  // At least 1 where there are new keys.
    float* out;                   // [batch, heads, dim], contiguous.
    std::int64_t batch;
    std::int64_t heads;
    std::int64_t kv_heads;
    std::int64_t dim;
    std::int64_t query_strides[2];
    std::int64_t key_strides[3];
    std::int64_t value_strides[3];
    std::int64_t new_key_strides[2];
    std::int64_t new_value_strides[2];
    float scale;
    FloatType type;  // Of keys and values.
    int threads;     // At most so many.
};

}  // namespace fairlead
