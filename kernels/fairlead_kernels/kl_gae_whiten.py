"""PPO's credit assignment in one operation: rewards, advantages and their whitening."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import as_floats, discount, prefix_mask, same_shape, tensors
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry
from fairlead_kernels.gae import gae
from fairlead_kernels.kl_rewards import check_layout, check_penalty, check_rewards, kl_rewards
from fairlead_kernels.whiten import whiten

__all__ = ["EPS", "OPERATION", "kl_gae_whiten"]

EPS = 1e-8
"""What is added to the variance (fidelity item 19)."""

_Four = tuple[Tensor, Tensor, Tensor, Tensor]


def kl_gae_whiten(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    beta: float,
    gamma: float = 1.0,
    lam: float = 0.95,
    estimator: str = "k1",
    kl: Tensor | None = None,
    token_scores: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`kl_rewards`, `gae` on its rewards and `whiten` on its advantages, in one.

    Each step is what the operation of that name does, its treatment of NaN and infinities
    included; the returns keep the advantages as they were before whitening. `cpp` gives the bits
    that the three give one after the other in `cpp`. The others agree with their three to the
    error rule. Fidelity items 15, 16, 19, 20, 21, 28 and 29.

    Args:
        logprobs: `[B, T]`, the policy's log-probabilities of the sampled tokens.
        ref_logprobs: `[B, T]`, the reference's.
        scores: `[B]`. A row without a response token gets none.
        values: `[B, T]`, the value of the state before each response token.
        response_mask: `[B, T]`, boolean: a contiguous prefix of each row, True first.
        beta: The penalty's coefficient.
        gamma: The discount, in [0, 1].
        lam: The trace decay, lambda, in [0, 1].
        estimator: `k1`, `k2` or `k3`; not used where `kl` is given.
        kl: `[B, T]`, a per-token divergence to use instead (the full-vocabulary one, say).
        token_scores: `[B, T]`, added at each response token (process rewards).
        impl: An implementation's name, or `auto`.

    Returns:
        Rewards, the divergence used, advantages whitened over the response tokens with
        `eps = 1e-8`, and returns: `[B, T]`, float32, zero outside the response.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape or dtype that is not the above, a mask that is not a prefix of its row,
            an unknown estimator, a number that is not finite.
        KernelError: `impl` cannot run on these inputs.
    """
    op = "kl_gae_whiten"
    check_rewards(op, logprobs, ref_logprobs, scores, response_mask, kl, token_scores)
    tensors(op, values=values)
    same_shape(op, logprobs, values=values)
    check_penalty(op, beta, estimator)
    discount(op, gamma=gamma, lam=lam)
    prefix_mask(op, response_mask)
    rewards, used, advantages, returns = registry.call(
        op,
        impl,
        as_floats(logprobs),
        as_floats(ref_logprobs),
        as_floats(scores),
        as_floats(values),
        response_mask.contiguous(),
        beta,
        gamma,
        lam,
        estimator,
        None if kl is None else as_floats(kl),
        None if token_scores is None else as_floats(token_scores),
    )
    return rewards, used, advantages, returns


def _reference(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    beta: float,
    gamma: float,
    lam: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> _Four:
    plain = "reference"
    rewards, used = kl_rewards(
        *(logprobs, ref_logprobs, scores, response_mask, beta, estimator, kl, token_scores),
        impl=plain,
    )
    advantages, returns = gae(rewards, values, response_mask, gamma, lam, impl=plain)
    return rewards, used, whiten(advantages, response_mask, True, EPS, impl=plain), returns


def _triton_supports(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    beta: float,
    gamma: float,
    lam: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    return triton.refuse(logprobs, ref_logprobs, scores, values, kl, token_scores)


def _results(logprobs: Tensor, *_others: object) -> Tensor:
    # One block of memory: four of this size go back to the system when they are freed, and
    # faulting their pages in again takes longer than the kernel.
    return logprobs.new_empty(4, *logprobs.shape)


def _check(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    beta: float,
    gamma: float,
    lam: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    return check_layout(
        logprobs, ref_logprobs, scores, response_mask, estimator, kl, token_scores, values
    )


def _call(operation: Callable[..., Tensor], *args: object) -> _Four:
    rewards, kl, advantages, returns = operation(*args).unbind()
    return rewards, kl, advantages, returns


OPERATION = TorchOp(
    "(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor values, Tensor response_mask,"
    " float beta, float gamma, float lam, str estimator, Tensor? kl, Tensor? token_scores)"
    " -> Tensor",
    _results,
    _check,
    _call,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    zeros = torch.zeros(2, 4, device=device)
    mask = torch.ones(2, 4, dtype=torch.bool, device=device)
    return zeros, zeros, zeros[:, 0].contiguous(), zeros, mask, 0.1, 1.0, 0.95, "k1", None, None


registry.define("kl_gae_whiten", _reference, _probe)
_TRITON = OPERATION.define("triton_kl_gae_whiten", triton.launcher("kl_gae_whiten:kl_gae_whiten"))
triton.register("kl_gae_whiten", _TRITON, _triton_supports)
