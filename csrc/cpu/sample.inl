// One row after another, each read a few times while it is in cache: the largest logit, what top-k
// and top-p cut off, the sums of the chunks, and the drawn chunk once more. Nothing is sorted and
// no weight is stored: recomputing e^z costs less than the memory.
#include <cfloat>
#include <cmath>
#include <memory>

#include "fairlead/sample.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {
namespace sampling {

constexpr int kChunk = kSampleChunk;
// A sum of float lanes, in double.
struct Sum {
    Doubles low = {};
    Doubles high = {};

    void add(Floats x) {
        low += low_half(x);
        high += high_half(x);
    }

    double total() const { return sum(low + high); }
};

inline Floats widen(const std::uint16_t* source, FloatType type) {
    Halves halves;
    std::memcpy(&halves, source, sizeof(halves));
    return type == FloatType::kBfloat16 ? widen(Bfloat16{}, halves) : widen(Float16{}, halves);
}

struct Row {
    const void* data;
    FloatType type;
    std::int64_t cols;

    std::int64_t chunks() const { return (cols + kChunk - 1) / kChunk; }

    // How many logits a chunk has, in whole vectors.
    int width(std::int64_t chunk) const {
        const std::int64_t left = cols - chunk * kChunk;
        return left >= kChunk ? kChunk : static_cast<int>((left + kWidth - 1) / kWidth * kWidth);
    }

    // A chunk's logits in float32, -inf past the row's end: in place, or in `buffer`.
    const float* chunk(std::int64_t chunk, float* buffer) const {
        const std::int64_t start = chunk * kChunk;
        const int padded = width(chunk);
        const int count =
            static_cast<int>(cols - start < padded ? cols - start : std::int64_t{padded});
        if (type == FloatType::kFloat32) {
            const float* source = static_cast<const float*>(data) + start;
            if (count == padded) return source;
            std::memcpy(buffer, source, sizeof(float) * static_cast<std::size_t>(count));
        } else {
            const std::uint16_t* source = static_cast<const std::uint16_t*>(data) + start;
            const int whole = count / kWidth * kWidth;
            for (int i = 0; i < whole; i += kWidth) {
                store(buffer + i, widen(source + i, type), kWidth);
            }
            std::uint16_t rest[kWidth] = {};
            std::memcpy(rest, source + whole, 2 * static_cast<std::size_t>(count - whole));
            if (whole < padded) store(buffer + whole, widen(rest, type), kWidth);
        }
        for (int i = count; i < padded; ++i) buffer[i] = -INFINITY;
        return buffer;
    }
};

// What one thread works with.
class Scratch {
  public:
    double* sums = nullptr;      // [chunks]
    float* largest = nullptr;    // [chunks, kWidth]: lane by lane.
    Candidates candidates = {};  // Room for every token; none where nothing is cut off.

    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        delete[] sums;
        delete[] largest;
        delete[] candidates.keys;
        delete[] candidates.weights;
    }

    void make(std::int64_t cols, bool cuts) {
        const auto chunks = static_cast<std::size_t>((cols + kChunk - 1) / kChunk);
        sums = new double[chunks];
        largest = new float[chunks * kWidth];
        if (cuts) {
            candidates.keys = new std::uint32_t[chunks * kChunk];
            candidates.weights = new float[chunks * kChunk];
        }
    }
};

// One row's distribution: its logits, the largest of them, the temperature, and the least that is
// kept (the lowest finite float where nothing is cut off: -inf is never kept).
struct Distribution {
    Row row;
    float largest;
    float temperature;
    float least;

    // z = (x - max) / temperature and e^z, both 0 where a token is not kept. NaN is kept.
    // Returns the lanes that are.
    Ints weigh(Floats x, Floats& z, Floats& weight) const {
        z = (x - largest) / temperature;
        const Ints kept = ~((x < fill(least)) | (z < fill(-FLT_MAX)));
        z = (Floats)((Ints)z & kept);
        weight = (Floats)((Ints)exp(z) & kept);
        return kept;
    }
};

struct Totals {
    double weight = 0.0;
    double weighted_z = 0.0;  // sum e^z z
    std::int64_t kept = 0;
};

// Sums over the row, and each chunk's weight in `sums`.
Totals totals(const Distribution& d, double* sums) {
    Totals all;
    for (std::int64_t chunk = 0; chunk < d.row.chunks(); ++chunk) {
        float buffer[kChunk];
        const float* x = d.row.chunk(chunk, buffer);
        const int width = d.row.width(chunk);
        Sum weight, weighted_z;
        Ints kept = {};
        for (int i = 0; i < width; i += kWidth) {
            const Floats logits = load(x + i, kWidth);
            if (!any(~(logits < fill(d.least)))) continue;
            Floats z, w;
            kept -= d.weigh(logits, z, w);
            weight.add(w);
            weighted_z.add(w * z);
        }
        sums[chunk] = weight.total();
        all.weight += sums[chunk];
        all.weighted_z += weighted_z.total();
        for (int i = 0; i < kWidth; ++i) all.kept += kept[i];
    }
    return all;
}

// The row's largest logit, NaN aside, and each chunk's in `largest`, lane by lane.
float row_maximum(const Row& row, float* largest) {
    Floats all = fill(-INFINITY);
    for (std::int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
        float buffer[kChunk];
        const float* x = row.chunk(chunk, buffer);
        const int width = row.width(chunk);
        Floats most = fill(-INFINITY);
        for (int i = 0; i < width; i += kWidth) most = larger(load(x + i, kWidth), most);
        store(largest + chunk * kWidth, most, kWidth);
        all = larger(most, all);
    }
    return max_lanes(all);
}

void gather(const Row& row, float least, Candidates& c) {
    c.count = 0;
    for (std::int64_t chunk = 0; chunk < row.chunks(); ++chunk) {
        float buffer[kChunk];
        const float* x = row.chunk(chunk, buffer);
        const int width = row.width(chunk);
        for (int i = 0; i < width; i += kWidth) {
            const Floats logits = load(x + i, kWidth);
            c.add(logits >= fill(least), keys_of(logits), fill(1.0f));
        }
    }
}

// The k-th largest logit, or the lowest finite float where there are fewer.
float top_k_threshold(const Row& row, std::int64_t k, Scratch& scratch) {
    if (k >= row.cols) return -FLT_MAX;
    // The k-th largest of disjoint parts' maxima is at most the k-th largest of all, and close.
    float least = -FLT_MAX;
    Candidates& c = scratch.candidates;
    const std::int64_t parts = row.chunks() * kWidth;
    c.count = 0;
    for (std::int64_t i = 0; i < parts; i += kWidth) {
        const Floats most = load(scratch.largest + i, kWidth);
        c.add(most >= fill(least), keys_of(most), fill(1.0f));
    }
    if (c.count >= k) least = threshold(c, static_cast<double>(k));
    gather(row, least, c);
    return c.count < k ? -FLT_MAX : threshold(c, static_cast<double>(k));
}

// The least logit that top-p leaves of `d`, whose sums are `all`.
float top_p_threshold(const Distribution& d, const Totals& all, double top_p, Scratch& scratch) {
    // All tokens lighter than (1 - p) total / kept weigh less than 1 - p together: none is in the
    // set. Half of that, so that no rounding matters.
    const double mean = all.weight / static_cast<double>(all.kept);
    const auto lightest = static_cast<float>(0.5 * (1.0 - top_p) * mean);
    Candidates& c = scratch.candidates;
    c.count = 0;
    for (std::int64_t chunk = 0; chunk < d.row.chunks(); ++chunk) {
        float buffer[kChunk];
        const float* x = d.row.chunk(chunk, buffer);
        const int width = d.row.width(chunk);
        for (int i = 0; i < width; i += kWidth) {
            const Floats logits = load(x + i, kWidth);
            if (!any(logits >= fill(d.least))) continue;
            Floats z, weight;
            d.weigh(logits, z, weight);
            const Ints heavy = (weight >= fill(lightest)) & (weight > Floats{});
            c.add(heavy, keys_of(logits), weight);
        }
    }
    return threshold(c, top_p * all.weight);
}

struct Drawn {
    std::int64_t token;
    float logprob;
    float entropy;
};

constexpr Drawn kNothing = {0, NAN, NAN};

// Inverts the cumulative distribution at `u`.
Drawn draw(const Distribution& d, const Totals& all, const double* sums, double u) {
    const double target = u * all.weight;
    std::int64_t chunk = 0;
    double before = 0.0, running = 0.0;
    for (std::int64_t i = 0; i < d.row.chunks(); ++i) {
        if (!(sums[i] > 0.0)) continue;
        // The last with a weight stays, where rounding leaves none above the target.
        chunk = i;
        before = running;
        running += sums[i];
        if (running > target) break;
    }
    float buffer[kChunk];
    const float* x = d.row.chunk(chunk, buffer);
    const int width = d.row.width(chunk);
    const double rest = target - before;
    int token = 0;
    running = 0.0;
    for (int i = 0; i < width && !(running > rest); i += kWidth) {
        Floats z, w;
        d.weigh(load(x + i, kWidth), z, w);
        for (int lane = 0; lane < kWidth && !(running > rest); ++lane) {
            running += static_cast<double>(w[lane]);
            token = w[lane] > 0.0f ? i + lane : token;
        }
    }
    const float z = (x[token] - d.largest) / d.temperature;
    const double log_total = std::log(all.weight);
    const double entropy = log_total - all.weighted_z / all.weight;
    const float bound = largest_entropy(all.kept);
    const auto rounded = static_cast<float>(entropy);
    return {chunk * kChunk + token, static_cast<float>(static_cast<double>(z) - log_total),
            rounded < bound ? rounded : bound};
}

Drawn sample_row(const SampleArguments& a, std::int64_t index, Scratch& scratch) {
    const std::int64_t size = a.type == FloatType::kFloat32 ? 4 : 2;
    const Row row = {static_cast<const char*>(a.logits) + index * a.stride * size, a.type, a.cols};
    Distribution d = {row, row_maximum(row, scratch.largest), a.temperature, -FLT_MAX};
    const bool greedy = a.temperature == 0.0f;
    if (greedy) {
        // As at a temperature so low that nothing but the largest has a weight.
        d.temperature = 1.0f;
        d.least = d.largest;
    } else if (a.top_k > 0) {
        d.least = top_k_threshold(row, a.top_k, scratch);
    }
    Totals all = totals(d, scratch.sums);
    // NaN with a NaN or +inf in the row, 0 without a finite logit.
    if (!(all.weight > 0.0)) return kNothing;
    if (greedy) {
        const Drawn first = draw(d, all, scratch.sums, 0.0);
        return {first.token, 0.0f, 0.0f};
    }
    if (a.top_p < 1.0) {
        d.least = top_p_threshold(d, all, a.top_p, scratch);
        all = totals(d, scratch.sums);
    }
    return draw(d, all, scratch.sums, a.u[index]);
}

}  // namespace sampling
}  // namespace

void sample(const SampleArguments& a) {
    // Waking a second thread costs as much as some 100,000 logits.
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.cols);
    int threads = worth(a.threads, work, 100e3);
    threads = threads < a.rows ? threads : static_cast<int>(a.rows);
    if (threads == 0) return;
    const std::unique_ptr<sampling::Scratch[]> scratch(
        new sampling::Scratch[static_cast<std::size_t>(threads)]);
    for (int i = 0; i < threads; ++i) scratch[i].make(a.cols, a.top_k > 0 || a.top_p < 1.0);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; ++part) {
        const std::int64_t end = a.rows * (part + 1) / threads;
        for (std::int64_t row = a.rows * part / threads; row < end; ++row) {
            const sampling::Drawn drawn = sampling::sample_row(a, row, scratch[part]);
            a.tokens[row] = drawn.token;
            a.logprobs[row] = drawn.logprob;
            a.entropies[row] = drawn.entropy;
        }
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
