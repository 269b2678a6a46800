// Small matrix products in float32, for kernels whose matrices stay in the cache.
namespace fairlead::FAIRLEAD_ISA {
namespace {

// Rows and vectors of a result that the registers hold.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kWidth == 16 ? 4 : 2;

// A matrix in memory, element [i, k] at data[i * row + k * column].
struct Matrix {
    const float* data;
    std::int64_t row;
    std::int64_t column;
};

// out[R, V vectors] = left[R, inner] right[inner, V vectors], or added to it. The last vector has
// `count` elements.
template <int R, int V>
inline void tile(Matrix left, const float* right, std::int64_t right_row, std::int64_t inner,
                 std::int64_t count, bool add, float* out, std::int64_t out_row) {
    Floats sums[R][V] = {};
    for (std::int64_t k = 0; k < inner; ++k) {
        Floats b[V];
        const float* from = right + k * right_row;
        FAIRLEAD_UNROLL for (int v = 0; v + 1 < V; ++v) b[v] = load(from + v * kWidth, kWidth);
        b[V - 1] = load(from + (V - 1) * kWidth, count);
        FAIRLEAD_UNROLL for (int r = 0; r < R; ++r) {
            const Floats a = fill(left.data[r * left.row + k * left.column]);
            FAIRLEAD_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = fused(a, b[v], sums[r][v]);
        }
    }
    FAIRLEAD_UNROLL for (int r = 0; r < R; ++r) {
        FAIRLEAD_UNROLL for (int v = 0; v < V; ++v) {
            float* to = out + r * out_row + v * kWidth;
            const std::int64_t some = v + 1 < V ? kWidth : count;
            store(to, add ? load(to, some) + sums[r][v] : sums[r][v], some);
        }
    }
}

// Some rows of a product: `columns` in panels as wide as the registers take them.
template <int R, int V = kTileVectors>
void tile_row(Matrix left, const float* right, std::int64_t right_row, std::int64_t inner,
              std::int64_t columns, bool add, float* out, std::int64_t out_row) {
    constexpr std::int64_t kPanel = V * kWidth;
    for (; columns >= kPanel; columns -= kPanel, right += kPanel, out += kPanel) {
        tile<R, V>(left, right, right_row, inner, kWidth, add, out, out_row);
    }
    if (columns > kPanel - kWidth) {
        tile<R, V>(left, right, right_row, inner, columns - (kPanel - kWidth), add, out, out_row);
    } else if constexpr (V > 1) {
        tile_row<R, V - 1>(left, right, right_row, inner, columns, add, out, out_row);
    }
}

// out[rows, columns] = left[rows, inner] right[inner, columns], or added to it; rows of `right` and
// `out` are contiguous.
void multiply(Matrix left, std::int64_t rows, const float* right, std::int64_t right_row,
              std::int64_t inner, std::int64_t columns, bool add, float* out,
              std::int64_t out_row) {
    using Part = void (*)(Matrix, const float*, std::int64_t, std::int64_t, std::int64_t, bool,
                          float*, std::int64_t);
    static constexpr Part kParts[] = {tile_row<1>, tile_row<2>, tile_row<3>,
                                      tile_row<4>, tile_row<5>, tile_row<kTileRows>};
    for (std::int64_t i = 0; i < rows; i += kTileRows) {
        const std::int64_t some = smaller(kTileRows, rows - i);
        kParts[some - 1]({left.data + i * left.row, left.row, left.column}, right, right_row, inner,
                         columns, add, out + i * out_row, out_row);
    }
}

// target[columns, rows], its rows `target_row` apart, from source[rows, columns]; what is past
// `rows` up to a whole vector is zero.
template <typename T>
void transpose(const T* source, std::int64_t source_row, std::int64_t rows, std::int64_t columns,
               float* target, std::int64_t target_row) {
    for (std::int64_t i = 0; i < rows; i += kWidth) {
        for (std::int64_t j = 0; j < columns; j += kWidth) {
            const std::int64_t count = smaller(kWidth, columns - j);
            Floats x[kWidth] = {};
            FAIRLEAD_UNROLL for (int r = 0; r < kWidth; ++r) {
                if (i + r < rows) x[r] = load(source + (i + r) * source_row + j, count);
            }
            transpose(x);
            for (std::int64_t c = 0; c < count; ++c) {
                store(target + (j + c) * target_row + i, x[c], kWidth);
            }
        }
    }
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
