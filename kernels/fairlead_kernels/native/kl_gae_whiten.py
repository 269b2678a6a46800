"""`kl_gae_whiten` in native code."""

from __future__ import annotations

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.kl_gae_whiten import EPS, OPERATION
from fairlead_kernels.kl_rewards import ESTIMATORS
from fairlead_kernels.native.whiten import PART, parts

__all__: list[str] = []


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
    return native.refuse(device, logprobs, ref_logprobs, scores, values, kl, token_scores)


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
    results: Tensor = OPERATION.results(logprobs)
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
        results,
        parts(logprobs, count),
        *logprobs.shape,
        beta,
        gamma,
        lam,
        ESTIMATORS.index(estimator) + 1,
        EPS,
    )
    return results


_kl_gae_whiten = OPERATION.define("kl_gae_whiten", _launch)
for _device in ("cpu", "cuda"):
    native.register("kl_gae_whiten", _device, _kl_gae_whiten, _supports)
