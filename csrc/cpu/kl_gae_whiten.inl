// A block's rewards are formed just before gae.inl reads them, so that they are in the cache still;
// then whiten.inl as it stands. Each step is that of the separate operation, so the bits are the
// same too.
#include "fairlead/kl_gae_whiten.h"

namespace fairlead::FAIRLEAD_ISA {

void kl_gae_whiten(const KlGaeWhitenArguments& a) {
    // Waking a second thread, once for all three, costs as much as some 50,000 positions.
    const int threads = worth(a.gae.threads, static_cast<double>(a.whiten.count), 50e3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        gae_blocks(a.gae, [&a](std::int64_t row) { kl_rewards_row(a.kl, row); });
        whiten_blocks(a.whiten);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
