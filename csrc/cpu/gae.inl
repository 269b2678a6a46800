// The recursion runs backwards in time, so a row alone is one long dependency chain. WIDTH rows go
// side by side: a WIDTH x WIDTH tile of deltas is formed along the rows, transposed in registers,
// run through the recursion with one row a lane, and transposed back. The operations and their
// order are those of the torch loop, and contraction to FMA is off, so the bits are the same too.
#include "fairlead/gae.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

inline void shuffle(const Floats (&from)[kWidth], Floats (&to)[kWidth]) {
    FAIRLEAD_UNROLL for (int i = 0; i < kWidth / 2; ++i) {
        to[2 * i] = interleave_low(from[i], from[i + kWidth / 2]);
        to[2 * i + 1] = interleave_high(from[i], from[i + kWidth / 2]);
    }
}

// log2(WIDTH) perfect shuffles of the rows are a transposition. Written out and not as a loop over
// stages, so that the tile stays in registers.
inline void transpose(Floats (&tile)[kWidth]) {
    Floats other[kWidth];
    shuffle(tile, other);
    shuffle(other, tile);
#if FAIRLEAD_WIDTH == 16
    shuffle(tile, other);
    shuffle(other, tile);
#elif FAIRLEAD_WIDTH == 8
    shuffle(tile, other);
    FAIRLEAD_UNROLL for (int i = 0; i < kWidth; ++i) tile[i] = other[i];
#endif
}

// A block of up to WIDTH rows.
struct Block {
    std::int64_t first_row;
    std::int64_t first;  // Offset of its first row.
    int rows;
    std::int64_t lengths[kWidth];
};

// WIDTH positions of one row of a block.
struct Strip {
    std::int64_t row;
    std::int64_t at;     // Offset of the first of them.
    std::int64_t count;  // How many of them, from the first, are response positions.
    std::int64_t room;   // How many of them are in the row.
};

// Rewards that stand in memory. A source of rewards gives those of a strip, zeros past its count.
struct GivenRewards {
    const float* rewards;

    Floats operator()(const Strip& strip) const { return load(rewards + strip.at, strip.count); }
    // What else it writes is made zero, from `at` on.
    void clear(std::int64_t, std::size_t) const {}
};

// One tile of WIDTH positions from `start`. `Whole`: every row of the block is there and goes on
// past the tile, so that nothing needs a bound; most tiles are such.
template <bool Whole, typename Rewards>
inline void gae_tile(const GaeArguments& a, const Rewards& rewards, const Block& block,
                     std::int64_t start, Floats& running) {
    const int rows = Whole ? kWidth : block.rows;
    Floats tile[kWidth] = {};
    Floats values[kWidth] = {};
    for (int i = 0; i < rows; ++i) {
        const std::int64_t at = block.first + i * a.cols + start;
        // Loads stop at the row's length, so lanes past it hold zeros whatever memory holds.
        const std::int64_t count = Whole ? kWidth + 1 : block.lengths[i] - start;
        values[i] = load(a.values + at, count);
        const Floats next = load(a.values + at + 1, count - 1);
        const Strip strip = {block.first_row + i, at, count, Whole ? kWidth : a.cols - start};
        tile[i] = rewards(strip) + a.gamma * next - values[i];
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

template <typename Rewards>
void gae_block(const GaeArguments& a, const Rewards& rewards, std::int64_t first_row, int rows) {
    Block block = {first_row, first_row * a.cols, rows, {}};
    std::int64_t longest = 0;
    std::int64_t shortest = rows == kWidth ? a.cols : 0;
    for (int i = 0; i < rows; ++i) {
        const std::int64_t length = prefix_length(a.mask + block.first + i * a.cols, a.cols);
        block.lengths[i] = length;
        longest = length > longest ? length : longest;
        shortest = length < shortest ? length : shortest;
    }
    const std::int64_t covered = (longest + kWidth - 1) / kWidth * kWidth;
    if (covered < a.cols) {
        const auto tail = sizeof(float) * static_cast<std::size_t>(a.cols - covered);
        for (int i = 0; i < rows; ++i) {
            const std::int64_t at = block.first + i * a.cols + covered;
            std::memset(a.advantages + at, 0, tail);
            std::memset(a.returns + at, 0, tail);
            rewards.clear(at, tail);
        }
    }
    Floats running = {};
    for (std::int64_t start = covered - kWidth; start >= 0; start -= kWidth) {
        if (start + kWidth < shortest) {
            gae_tile<true>(a, rewards, block, start, running);
        } else {
            gae_tile<false>(a, rewards, block, start, running);
        }
    }
}

// Shared out among the threads of the parallel region around it; all have ended when it returns.
template <typename Rewards>
void gae_blocks(const GaeArguments& a, const Rewards& rewards) {
    const std::int64_t blocks = (a.rows + kWidth - 1) / kWidth;
#pragma omp for schedule(static)
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t left = a.rows - block * kWidth;
        const int rows = static_cast<int>(left < kWidth ? left : kWidth);
        gae_block(a, rewards, block * kWidth, rows);
    }
}

}  // namespace

void gae(const GaeArguments& a) {
    // Waking a second thread costs as much as some 200,000 positions.
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.cols);
    const int threads = worth(a.threads, work, 200e3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    gae_blocks(a, GivenRewards{a.rewards});
}

}  // namespace fairlead::FAIRLEAD_ISA
