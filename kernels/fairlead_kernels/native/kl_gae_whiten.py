"""`kl_gae_whiten` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.kl_gae_whiten import EPS
from fairlead_kernels.kl_rewards import ESTIMATORS
from fairlead_kernels.native.kl_rewards import check_rewards
from fairlead_kernels.native.layout import unlike
from fairlead_kernels.native.whiten import PART, parts

__all__: list[str] = []

_Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _check(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    values: Tensor,
    response_mask: Tensor,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    return check_rewards(
        logprobs, ref_logprobs, scores, response_mask, estimator, kl, token_scores
    ) or unlike(logprobs, mask=response_mask, values=values)


def _supports(
    device: str,
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
    refusal = native.refuse(device, logprobs, ref_logprobs, scores, values, kl, token_scores)
    return refusal or _check(
        logprobs, ref_logprobs, scores, values, response_mask, estimator, kl, token_scores
    )


def _launch(
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
) -> Tensor:
    problem = _check(
        logprobs, ref_logprobs, scores, values, response_mask, estimator, kl, token_scores
    )
    if problem is not None:
        raise ValueError(f"kl_gae_whiten: {problem}")
    results = _fake(logprobs)
    # The CPU takes the moments of stretches, as whiten does, CUDA those of rows.
    on_cpu = logprobs.device.type == "cpu"
    count = -(-logprobs.numel() // PART) if on_cpu else logprobs.shape[0]
    native.call(
        "kl_gae_whiten",
        logprobs,
        ref_logprobs,
        scores,
        values,
        response_mask,
        kl,
        token_scores,
        *results.unbind(),
        parts(logprobs, count),
        *logprobs.shape,
        beta,
        gamma,
        lam,
        ESTIMATORS.index(estimator) + 1,
        EPS,
    )
    return results


def _fake(logprobs: Tensor, *_others: object) -> Tensor:
    # One block of memory: four of this size go back to the system when they are freed, and
    # faulting their pages in again takes longer than the kernel.
    return logprobs.new_empty(4, *logprobs.shape)


native.define(
    "kl_gae_whiten(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor values,"
    " Tensor response_mask, float beta, float gamma, float lam, str estimator, Tensor? kl,"
    " Tensor? token_scores) -> Tensor",
    _launch,
    _fake,
)


def _kl_gae_whiten(*args: object) -> _Four:
    rewards, kl, advantages, returns = torch.ops.fairlead_kernels.kl_gae_whiten(*args).unbind()
    return rewards, kl, advantages, returns


for _device in ("cpu", "cuda"):
    native.register("kl_gae_whiten", _device, _kl_gae_whiten, _supports)
