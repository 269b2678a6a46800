#include "fairlead/philox.h"

namespace fairlead::FAIRLEAD_ISA {

void philox_uniform(const PhiloxArguments& a) {
    // Waking a second thread costs as much as some 10,000 numbers.
    const int threads = worth(a.threads, static_cast<double>(a.count), 10e3);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < a.count; ++i) {
        a.uniform[i] =
            philox_uniform_at(a.seed, a.iteration, static_cast<std::uint64_t>(a.sequence[i]),
                              static_cast<std::uint32_t>(a.position[i]));
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
