// gae.inl's tiles with rewards that are formed, and written, as they are read; then whiten.inl as
// it stands. Each step is that of the separate operation, so the bits are the same too.
#include "fairlead/kl_gae_whiten.h"

namespace fairlead::FAIRLEAD_ISA {
namespace {

struct KlRewardSource {
    const KlRewardsArguments& a;

    Floats operator()(const Strip& strip) const {
        const std::int64_t bound = strip.count < 0 ? 0 : strip.count;
        const auto count = static_cast<std::int32_t>(bound < kWidth ? bound : kWidth);
        const KlReward result = kl_reward(a, strip.at, count, kLanes < count);
        // The last response position is in this strip unless the row goes on past it.
        const auto last = static_cast<std::int32_t>(strip.count <= kWidth ? strip.count - 1 : -1);
        const Floats score = kLanes == last ? fill(a.scores[strip.row]) : Floats{};
        const Floats rewards = result.reward + score;
        store(a.kl + strip.at, result.kl, strip.room);
        store(a.rewards + strip.at, rewards, strip.room);
        return rewards;
    }

    void clear(std::int64_t at, std::size_t bytes) const {
        std::memset(a.kl + at, 0, bytes);
        std::memset(a.rewards + at, 0, bytes);
    }
};

}  // namespace

void kl_gae_whiten(const KlGaeWhitenArguments& a) {
    // Waking a second thread, once for all three, costs as much as some 50,000 positions.
    const int threads = worth(a.gae.threads, static_cast<double>(a.whiten.count), 50e3);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        gae_blocks(a.gae, KlRewardSource{a.kl});
        whiten_blocks(a.whiten);
    }
}

}  // namespace fairlead::FAIRLEAD_ISA
