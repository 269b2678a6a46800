// Every CPU kernel, for one instruction set, and the table that dispatch.cpp picks.
#include "fairlead/cpu.h"
#include "simd.inl"
//
#include "math.inl"
//
#include "half.inl"
#include "sums.inl"
//
#include "add_layer_norm.inl"
#include "decode_attention.inl"
#include "gae.inl"
#include "gelu.inl"
#include "kl_rewards.inl"
#include "logprobs.inl"
#include "philox.inl"
#include "ppo_loss.inl"
#include "threshold.inl"
//
#include "sample.inl"
#include "whiten.inl"
//
#include "kl_gae_whiten.inl"
#include "products.inl"
//
#include "packed_linear.inl"
#include "ragged_attention.inl"

namespace fairlead::FAIRLEAD_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {
    add_layer_norm,
    gae,
    kl_rewards,
    whiten,
    kl_gae_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    decode_attention,
    logprobs_forward,
    logprobs_backward,
    philox_uniform,
    sample,
    packed_linear,
    gelu,
    ragged_attention_forward,
    ragged_attention_backward,
};

}  // namespace fairlead::FAIRLEAD_ISA
