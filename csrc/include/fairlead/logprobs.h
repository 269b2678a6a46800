// Log-probability of one token a row and entropy of the row, from logits over a temperature, over
// raw pointers. The caller has checked shapes, dtypes, devices and strides.
//
//   z_i = (x_i - max x) / T     S = sum exp z_i     E = sum exp(z_i) (-z_i) / S
//   log-probability z_y - log S (at most 0),  entropy log S + E (in [0, log V])
//
// The vocabulary may come in several blocks of columns, one call a block, left to right: what is
// known of a row after a block is its state. Fidelity items 10 and 33.
#pragma once

#include <cstdint>

#include "fairlead/float_type.h"

namespace fairlead {

// A block of logits: [rows, cols], `stride` elements from row to row, its first column token
// `first` of `vocabulary`.
struct LogitsBlock {
    FloatType type;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t stride;
    std::int64_t first;
    std::int64_t vocabulary;
    double temperature;
    int threads;  // At most so many.
};

// What the backward needs of a row, kLogprobStats floats: its largest logit, S, E, and whether its
// label counts (1, or 0 where it is excluded).
constexpr int kLogprobStats = 4;
// Doubles a row between blocks.
constexpr int kLogprobState = 4;

struct LogprobsForward {
    LogitsBlock block;
    const void* logits;
    const std::int64_t* labels;  // Checked by the callee; may lie in any block.
    double* state;               // [rows, kLogprobState]; may be null where one block is all.
    float* logprobs;             // These three are written with the last block.
    float* entropy;
    float* stats;  // [rows, kLogprobStats]
};

// The gradient of a block, in the type of the logits; it may lie where the logits lie. A null
// `grad_*` is zero. A row whose two are zero gets zeros, whatever its logits.
struct LogprobsBackward {
    LogitsBlock block;
    const void* logits;
    const std::int64_t* labels;
    const float* stats;
    const float* grad_logprobs;
    const float* grad_entropy;
    void* grad_logits;  // [rows, cols], `grad_stride` elements from row to row.
    std::int64_t grad_stride;
};

// The first row whose label is not in the vocabulary, or -1.
inline std::int64_t bad_label(const std::int64_t* labels, std::int64_t rows,
                              std::int64_t vocabulary) {
    for (std::int64_t row = 0; row < rows; ++row) {
        if (labels[row] < 0 || labels[row] >= vocabulary) return row;
    }
    return -1;
}

}  // namespace fairlead
