// The RL stage's credit assignment in one: kl_rewards, gae on its rewards, and whiten on its
// advantages, as their own headers say.
#pragma once

#include "fairlead/gae.h"
#include "fairlead/kl_rewards.h"
#include "fairlead/whiten.h"

namespace fairlead {

// The three share the mask, a prefix of each row. `gae.rewards` and `kl.rewards` are one array;
// `whiten.x` and `whiten.result` are `gae.advantages`.
struct KlGaeWhitenArguments {
    KlRewardsArguments kl;
    GaeArguments gae;
    WhitenArguments whiten;  // On CUDA its parts are one a row.
};

// On CUDA device `device`, in `stream` (a cudaStream_t): one cooperative launch, or two launches
// where the device does not have those or not all blocks fit. Returns nullptr, or the text of the
// CUDA error.
const char* kl_gae_whiten_cuda(const KlGaeWhitenArguments& arguments, int device, void* stream);

}  // namespace fairlead
