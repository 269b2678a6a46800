"""`kl_rewards` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.kl_rewards import ESTIMATORS
from fairlead_kernels.native.layout import unlike

__all__ = ["check_rewards"]


def check_rewards(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    if logprobs.dim() != 2:
        return f"logprobs must be [B, T], got {tuple(logprobs.shape)}"
    if scores.shape != logprobs.shape[:1] or scores.dtype != torch.float32:
        return f"scores must be float32 [{logprobs.shape[0]}], got {tuple(scores.shape)}"
    if scores.device != logprobs.device or not scores.is_contiguous():
        return "scores must be contiguous, on the device of logprobs"
    if estimator not in ESTIMATORS:
        return f"estimator '{estimator}' is not one of {', '.join(ESTIMATORS)}"
    return unlike(
        logprobs,
        mask=response_mask,
        ref_logprobs=ref_logprobs,
        kl=kl,
        token_scores=token_scores,
    )


def _supports(
    device: str,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    refusal = native.refuse(device, logprobs, ref_logprobs, scores, kl, token_scores)
    return refusal or check_rewards(
        logprobs, ref_logprobs, scores, response_mask, estimator, kl, token_scores
    )


def _launch(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> tuple[Tensor, Tensor]:
    problem = check_rewards(
        logprobs, ref_logprobs, scores, response_mask, estimator, kl, token_scores
    )
    if problem is not None:
        raise ValueError(f"kl_rewards: {problem}")
    results = torch.empty_like(logprobs), torch.empty_like(logprobs)
    native.call(
        "kl_rewards",
        logprobs,
        ref_logprobs,
        scores,
        response_mask,
        kl,
        token_scores,
        *results,
        *logprobs.shape,
        beta,
        ESTIMATORS.index(estimator) + 1,
    )
    return results


def _fake(logprobs: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logprobs), torch.empty_like(logprobs)


native.define(
    "kl_rewards(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor response_mask,"
    " float beta, str estimator, Tensor? kl, Tensor? token_scores) -> (Tensor, Tensor)",
    _launch,
    _fake,
)


def _kl_rewards(*args: object) -> tuple[Tensor, Tensor]:
    rewards, kl = torch.ops.fairlead_kernels.kl_rewards(*args)
    return rewards, kl


for _device in ("cpu", "cuda"):
    native.register("kl_rewards", _device, _kl_rewards, _supports)
