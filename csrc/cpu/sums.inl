// Masks of one byte a position, and sums in double that come out the same whatever the number of
// threads: the data is cut into blocks of a fixed size, and the blocks' sums are added in order.
namespace fairlead::FAIRLEAD_ISA {
namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(FAIRLEAD_WIDTH)));
typedef float Halves __attribute__((vector_size(2 * FAIRLEAD_WIDTH)));
typedef double Doubles __attribute__((vector_size(4 * FAIRLEAD_WIDTH)));

// All bits set where a byte of the mask is; nothing past `count` bytes is read.
inline Ints load_mask(const std::uint8_t* mask, std::int64_t count) {
    Bytes bytes = {};
    if (count >= kWidth) {
        std::memcpy(&bytes, mask, sizeof(Bytes));
    } else if (count > 0) {
        std::memcpy(&bytes, mask, static_cast<std::size_t>(count));
    }
    return __builtin_convertvector(bytes, Ints) != 0;
}

inline Doubles low_half(Floats x) {
    Halves half;
    std::memcpy(&half, &x, sizeof(Halves));
    return __builtin_convertvector(half, Doubles);
}

inline Doubles high_half(Floats x) {
    Halves half;
    std::memcpy(&half, reinterpret_cast<const char*>(&x) + sizeof(Halves), sizeof(Halves));
    return __builtin_convertvector(half, Doubles);
}

inline double sum(Doubles x) {
    double lanes[kWidth / 2];
    std::memcpy(lanes, &x, sizeof(Doubles));
    double total = 0.0;
    for (double lane : lanes) total += lane;
    return total;
}

}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
