// Philox4x32-10, the counter-based generator of Salmon et al. 2011 (SC'11), and the one uniform
// number that the sampler takes from it. The layout of key, counter and result is written down in
// kernels/fairlead_kernels/philox.py. Fidelity item 14.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FAIRLEAD_BOTH __host__ __device__
#else
#define FAIRLEAD_BOTH
#endif

namespace fairlead {

struct PhiloxArguments {
    std::uint64_t seed;
    std::uint32_t iteration;
    const std::int64_t* sequence;
    const std::int64_t* position;
    double* uniform;
    std::int64_t count;
    int threads;  // At most so many, on the CPU.
};

// Static: every instruction set's file keeps the copy that it compiled.
FAIRLEAD_BOTH static inline double philox_uniform_at(std::uint64_t seed, std::uint32_t iteration,
                                                     std::uint64_t sequence,
                                                     std::uint32_t position) {
    std::uint32_t c0 = position, c1 = static_cast<std::uint32_t>(sequence),
                  c2 = static_cast<std::uint32_t>(sequence >> 32), c3 = iteration;
    std::uint32_t k0 = static_cast<std::uint32_t>(seed),
                  k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = 0xD2511F53ull * c0;
        const std::uint64_t product1 = 0xCD9E8D57ull * c2;
        c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(product1);
        c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(product0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const std::uint64_t bits = (static_cast<std::uint64_t>(c0) << 21) | (c1 >> 11);
    return static_cast<double>(bits) * 0x1p-53;
}

// As sample_cuda.
const char* philox_uniform_cuda(const PhiloxArguments& arguments, int device, void* stream);

}  // namespace fairlead
