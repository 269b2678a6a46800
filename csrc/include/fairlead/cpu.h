// The CPU kernels as a table of functions, one table an instruction set, picked at run time.
#pragma once

#include "fairlead/add_layer_norm.h"
#include "fairlead/decode_attention.h"
#include "fairlead/gae.h"
#include "fairlead/gelu.h"
#include "fairlead/kl_gae_whiten.h"
#include "fairlead/kl_rewards.h"
#include "fairlead/logprobs.h"
#include "fairlead/packed_linear.h"
#include "fairlead/philox.h"
#include "fairlead/ppo_loss.h"
#include "fairlead/ragged_attention.h"
#include "fairlead/sample.h"
#include "fairlead/whiten.h"

namespace fairlead {

struct CpuKernels {
    void (*add_layer_norm)(const AddLayerNormArguments&);
    void (*gae)(const GaeArguments&);
    void (*kl_rewards)(const KlRewardsArguments&);
    void (*whiten)(const WhitenArguments&);
    void (*kl_gae_whiten)(const KlGaeWhitenArguments&);
    void (*ppo_policy_loss)(const PolicyLossArguments&);
    void (*ppo_value_loss)(const ValueLossArguments&);
    void (*decode_attention)(const DecodeAttentionArguments&);
    void (*logprobs_forward)(const LogprobsForward&);
    void (*logprobs_backward)(const LogprobsBackward&);
    void (*philox_uniform)(const PhiloxArguments&);
    void (*sample)(const SampleArguments&);
    void (*packed_linear)(const PackedLinearArguments&);
    void (*gelu)(const GeluArguments&);
    void (*ragged_attention_forward)(const RaggedAttentionForward&);
    void (*ragged_attention_backward)(const RaggedAttentionBackward&);
};

// The kernels of an instruction set ("avx512", "avx2", "generic"), or the widest that this
// processor runs where the name is empty; nullptr where it or this build has none of that name.
const CpuKernels* cpu_kernels(const char* instruction_set);

// The name of the widest instruction set that this processor runs.
const char* cpu_instruction_set();

// How many of `threads` are worth waking for `work`, with at least `grain` of it for each.
inline int worth(int threads, double work, double grain) {
    const double most = work / grain;
    return most <= 1.0 ? 1 : (most < threads ? static_cast<int>(most) : threads);
}

}  // namespace fairlead
