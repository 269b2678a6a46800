// The recursion runs backwards in time, so a row alone is one long dependency chain. WIDTH rows go
// side by side: a WIDTH x WIDTH tile of deltas is formed along the rows, transposed in registers,
// run through the recursion with one row a lane, and transposed back. The operations and their
// order are those of the torch loop, and contraction to FMA is off, so the bits are the same too.
#include "fairlead/gae.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

// A block of up to WIDTH rows.
struct Block {
    std::int64_t first_row;
    std::int64_t first;  // Offset of its first row.
    int rows;
    std::int64_t longest;
    std::int64_t shortest;  // 0 where rows are missing.
    std::int64_t lengths[kWidth];
};

Block block_at(const GaeArguments& a, std::int64_t first_row) {
    const std::int64_t left = a.rows - first_row;
    Block block = {};
    block.first_row = first_row;
    block.first = first_row * a.cols;
    block.rows = left < kWidth ? static_cast<int>(left) : kWidth;
    block.shortest = left < kWidth ? 0 : a.cols;
    for (int i = 0; i < block.rows; ++i) {
        const std::int64_t length = prefix_length(a.mask + block.first + i * a.cols, a.cols);
        block.lengths[i] = length;
        block.longest = length > block.longest ? length : block.longest;
        block.shortest = length < block.shortest ? length : block.shortest;
    }
    return block;
}

// One tile of WIDTH positions from `start`. `Full`: no row of the block is missing. `Whole`: and
// every row goes on past the tile, so that nothing needs a bound.
template <bool Full, bool Whole>
inline void gae_tile(const GaeArguments& a, const Block& block, std::int64_t start,
                     Floats& running) {
    const int rows = Full ? kWidth : block.rows;
    Floats tile[kWidth] = {};
    Floats values[kWidth] = {};
    for (int i = 0; i < rows; ++i) {
        const std::int64_t at = block.first + i * a.cols + start;
        // Loads stop at the row's length, so lanes past it hold zeros whatever memory holds.
        const std::int64_t count = block.lengths[i] - start;
        const auto read = [count](const float* from, int before) {
            return Whole ? load(from, kWidth) : load_ragged(from, count - before);
        };
        values[i] = read(a.values + at, 0);
        const Floats next = read(a.values + at + 1, 1);
        tile[i] = read(a.rewards + at, 0) + a.gamma * next - values[i];
    }
    transpose(tile);
    FAIRLEAD_UNROLL for (int t = kWidth - 1; t >= 0; --t) {
        running = tile[t] + a.gamma_lambda * running;
        tile[t] = running;
    }
    transpose(tile);
    for (int i = 0; i < rows; ++i) {
        const std::int64_t at = block.first + i * a.cols + start;
        Floats advantages = tile[i];
        if (!Whole) {
            const std::int64_t count = block.lengths[i] - start;
            const Ints inside = kLanes < static_cast<std::int32_t>(count < kWidth ? count : kWidth);
            advantages = (Floats)((Ints)advantages & inside);
        }
        const std::int64_t room = Whole ? kWidth : a.cols - start;
        store(a.advantages + at, advantages, room);
        store(a.returns + at, advantages + values[i], room);
    }
}

void gae_block(const GaeArguments& a, const Block& block) {
    const std::int64_t covered = (block.longest + kWidth - 1) / kWidth * kWidth;
    if (covered < a.cols) {
        const auto tail = sizeof(float) * static_cast<std::size_t>(a.cols - covered);
        for (int i = 0; i < block.rows; ++i) {
            const std::int64_t at = block.first + i * a.cols + covered;
            std::memset(a.advantages + at, 0, tail);
            std::memset(a.returns + at, 0, tail);
        }
    }
    Floats running = {};
    for (std::int64_t start = covered - kWidth; start >= 0; start -= kWidth) {
        if (start + kWidth < block.shortest) {
            gae_tile<true, true>(a, block, start, running);
        } else if (block.rows == kWidth) {
            gae_tile<true, false>(a, block, start, running);
        } else {
            gae_tile<false, false>(a, block, start, running);
        }
    }
}

// Shared out among the threads of the parallel region around it; all have ended when it returns.
// Of each row `before` is called first.
template <typename Before>
void gae_blocks(const GaeArguments& a, const Before& before) {
    const std::int64_t blocks = (a.rows + kWidth - 1) / kWidth;
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < blocks; ++i) {
        const Block block = block_at(a, i * kWidth);
        for (int row = 0; row < block.rows; ++row) before(block.first_row + row);
        gae_block(a, block);
    }
}

}  // namespace

void gae(const GaeArguments& a) {
    // Waking a second thread costs as much as some 200,000 positions.
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.cols);
    const int threads = worth(a.threads, work, 200e3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    gae_blocks(a, [](std::int64_t) {});
}

}  // namespace fairlead::FAIRLEAD_ISA
