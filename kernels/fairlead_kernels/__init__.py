"""Kernels for RLHF: one public function an operation, several implementations of each.

The plain torch implementation, `reference`, is the specification. `impl="auto"` takes the fastest
one that runs here on the given inputs; `list_implementations` says which that is and why. Shapes
are written `[B, T]`: B sequences, T response positions.

Every function compiles with `torch.compile(fullgraph=True)`. Values of a tensor that it does
not take, such as a mask that is no prefix, are then no error: see docs/kernels.md.
"""

from fairlead_kernels._torch_op import launch_of
from fairlead_kernels.add_layer_norm import add_layer_norm
from fairlead_kernels.decode_attention import decode_attention
from fairlead_kernels.dispatch import (
    ImplementationRow,
    KernelError,
    list_implementations,
    register_implementation,
)
from fairlead_kernels.gae import gae
from fairlead_kernels.gelu import gelu
from fairlead_kernels.kl_gae_whiten import kl_gae_whiten
from fairlead_kernels.kl_rewards import kl_rewards
from fairlead_kernels.linear_logprobs import linear_logprobs
from fairlead_kernels.native import Launch, NativeStatus, native_status, noted_launches
from fairlead_kernels.packed_linear import pack_weight, packed_linear
from fairlead_kernels.philox import philox_uniform
from fairlead_kernels.ppo_loss import (
    PolicyLossMetrics,
    ValueLossMetrics,
    ppo_policy_loss,
    ppo_value_loss,
)
from fairlead_kernels.ragged_attention import ragged_attention
from fairlead_kernels.sample import sample
from fairlead_kernels.token_logprobs import token_logprobs
from fairlead_kernels.whiten import whiten
from fairlead_kernels.xformers_attention import xformers_missing

__all__ = [
    "ImplementationRow",
    "KernelError",
    "Launch",
    "NativeStatus",
    "PolicyLossMetrics",
    "ValueLossMetrics",
    "add_layer_norm",
    "decode_attention",
    "gae",
    "gelu",
    "kl_gae_whiten",
    "kl_rewards",
    "launch_of",
    "linear_logprobs",
    "list_implementations",
    "native_status",
    "noted_launches",
    "pack_weight",
    "packed_linear",
    "philox_uniform",
    "ppo_policy_loss",
    "ppo_value_loss",
    "ragged_attention",
    "register_implementation",
    "sample",
    "token_logprobs",
    "whiten",
    "xformers_missing",
]

# Each registers its implementations when it is imported, after the operation is defined.
import fairlead_kernels.native.add_layer_norm
import fairlead_kernels.native.decode_attention
import fairlead_kernels.native.gae
import fairlead_kernels.native.gelu
import fairlead_kernels.native.kl_gae_whiten
import fairlead_kernels.native.kl_rewards
import fairlead_kernels.native.linear_logprobs
import fairlead_kernels.native.packed_linear
import fairlead_kernels.native.philox
import fairlead_kernels.native.ppo_loss
import fairlead_kernels.native.ragged_attention
import fairlead_kernels.native.sample
import fairlead_kernels.native.token_logprobs
import fairlead_kernels.native.whiten  # noqa: F401
