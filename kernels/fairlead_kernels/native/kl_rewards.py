"""`kl_rewards` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.kl_rewards import ESTIMATORS, OPERATION

__all__: list[str] = []


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
    return native.refuse(device, logprobs, ref_logprobs, scores, kl, token_scores)


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


_kl_rewards = OPERATION.define("kl_rewards", _launch)
for _device in ("cpu", "cuda"):
    native.register("kl_rewards", _device, _kl_rewards, _supports)
