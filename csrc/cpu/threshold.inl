// The threshold of top-k and top-p, for sample.inl: histograms over the bits of the logits.
namespace fairlead::FAIRLEAD_ISA {
namespace {
namespace sampling {

// Bits that are ordered as the floats are, the two zeros equal.
inline Ints keys_of(Floats x) {
    const Ints bits = (Ints)(x + 0.0f);
    return bits ^ ((bits >> 31) | INT32_MIN);
}

inline float value_of(std::uint32_t key) {
    const std::uint32_t bits = (key >> 31) != 0 ? key ^ 0x80000000u : ~key;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline bool any(Ints which) {
#if FAIRLEAD_WIDTH == 16
    return _mm512_test_epi32_mask((__m512i)which, (__m512i)which) != 0;
#else
    std::uint64_t words[kWidth / 2];
    std::memcpy(words, &which, sizeof(which));
    std::uint64_t together = 0;
    for (std::uint64_t word : words) together |= word;
    return together != 0;
#endif
}

// The tokens among which a threshold lies.
struct Candidates {
    std::uint32_t* keys;
    float* weights;  // Positive.
    std::int64_t count;

    // Adds the lanes where `which` is set. What lies past `count` may be written over: there is
    // room for whole chunks.
    void add(Ints which, Ints key, Floats weight) {
#if FAIRLEAD_WIDTH == 16
        const __mmask16 mask = _mm512_test_epi32_mask((__m512i)which, (__m512i)which);
        if (mask == 0) return;
        const Ints first_keys = (Ints)_mm512_maskz_compress_epi32(mask, (__m512i)key);
        const Floats first_weights = (Floats)_mm512_maskz_compress_ps(mask, (__m512)weight);
        std::memcpy(keys + count, &first_keys, sizeof(first_keys));
        std::memcpy(weights + count, &first_weights, sizeof(first_weights));
        count += __builtin_popcount(mask);
#else
        if (!any(which)) return;
        for (int lane = 0; lane < kWidth; ++lane) {
            keys[count] = static_cast<std::uint32_t>(key[lane]);
            weights[count] = weight[lane];
            count -= which[lane];
        }
#endif
    }
};

// A histogram costs as much as ordering so many.
constexpr std::int64_t kFew = 48;

// The threshold among few candidates, where `above` is the weight of all that are larger: puts them
// in order.
float threshold_of_few(Candidates& c, double above, double target) {
    for (std::int64_t i = 1; i < c.count; ++i) {
        const std::uint32_t key = c.keys[i];
        const float weight = c.weights[i];
        std::int64_t at = i;
        for (; at > 0 && c.keys[at - 1] < key; --at) {
            c.keys[at] = c.keys[at - 1];
            c.weights[at] = c.weights[at - 1];
        }
        c.keys[at] = key;
        c.weights[at] = weight;
    }
    std::int64_t last = 0;
    for (; last < c.count - 1; ++last) {
        above += static_cast<double>(c.weights[last]);
        if (above >= target) break;
    }
    return value_of(c.keys[last]);
}

// The largest value such that the candidates from it up weigh at least `target`; the smallest
// candidate where rounding leaves none. A histogram of 11 bits of the keys, then the bucket where
// the target falls by the next bits: the candidates are used up. At least one is needed.
float threshold(Candidates& c, double target) {
    constexpr int kShifts[] = {21, 10, 0};
    constexpr std::uint32_t kBuckets = 2048;
    double weights[kBuckets];
    double above = 0.0;
    for (int shift : kShifts) {
        if (c.count <= kFew) return threshold_of_few(c, above, target);
        const std::uint32_t mask = shift == 0 ? 1023 : kBuckets - 1;
        std::memset(weights, 0, sizeof(weights));
        for (std::int64_t i = 0; i < c.count; ++i) {
            weights[(c.keys[i] >> shift) & mask] += static_cast<double>(c.weights[i]);
        }
        std::uint32_t found = 0;
        double before = above;
        for (std::uint32_t bucket = kBuckets; bucket-- > 0;) {
            if (weights[bucket] == 0.0) continue;
            found = bucket;
            before = above;
            above += weights[bucket];
            if (above >= target) break;
        }
        above = before;
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < c.count; ++i) {
            const std::uint32_t key = c.keys[i];
            const float weight = c.weights[i];
            c.keys[kept] = key;
            c.weights[kept] = weight;
            kept += ((key >> shift) & mask) == found;
        }
        c.count = kept;
    }
    return value_of(c.keys[0]);
}

}  // namespace sampling
}  // namespace
}  // namespace fairlead::FAIRLEAD_ISA
