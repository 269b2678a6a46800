"""Rewards of the RL stage: a penalty on the divergence from the reference, and the score."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import as_floats, finite, same_shape, shape_error, tensors
from fairlead_kernels._torch_op import TorchOp, unlike
from fairlead_kernels.dispatch import registry

__all__ = [
    "ESTIMATORS",
    "OPERATION",
    "check_layout",
    "check_penalty",
    "check_rewards",
    "kl_rewards",
]

ESTIMATORS = ("k1", "k2", "k3")


def kl_rewards(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str = "k1",
    kl: Tensor | None = None,
    token_scores: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Per-token rewards `-beta * kl_t`, with the score added once, at the last response token.

    Ouyang et al. 2022 (arXiv 2203.02155), equation 2 and appendix C; estimators of Schulman 2020,
    "Approximating KL divergence". With `lr = logprobs - ref_logprobs`: `k1 = lr`, `k2 = lr^2 / 2`,
    `k3 = expm1(-lr) + lr`. Nothing is clamped and no absolute value is taken. Fidelity items 15,
    16 and 29. Positions outside the response have no influence, whatever they hold (item 20). NaN
    and infinities inside go through the formulas position by position; k3 overflows to infinity
    where `-lr` is above 88.7, and is NaN at `lr = -inf`. The implementations give the same bits,
    but for k3, which is never negative in any of them. Only the reference has a gradient.

    Args:
        logprobs: `[B, T]`, the policy's log-probabilities of the sampled tokens.
        ref_logprobs: `[B, T]`, the reference's.
        scores: `[B]`. A row without a response token gets none.
        response_mask: `[B, T]`, boolean, True at response tokens.
        beta: The penalty's coefficient.
        estimator: `k1`, `k2` or `k3`; not used where `kl` is given.
        kl: `[B, T]`, a per-token divergence to use instead (the full-vocabulary one, say).
        token_scores: `[B, T]`, added at each response token (process rewards).
        impl: An implementation's name, or `auto`.

    Returns:
        Rewards and the divergence used, `[B, T]`, float32, zero outside the response.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape or dtype that is not the above, an unknown estimator, a beta that is
            not finite.
        KernelError: `impl` cannot run on these inputs.
    """
    check_rewards("kl_rewards", logprobs, ref_logprobs, scores, response_mask, kl, token_scores)
    check_penalty("kl_rewards", beta, estimator)
    rewards, used = registry.call(
        "kl_rewards",
        impl,
        as_floats(logprobs),
        as_floats(ref_logprobs),
        as_floats(scores),
        response_mask.contiguous(),
        beta,
        estimator,
        None if kl is None else as_floats(kl),
        None if token_scores is None else as_floats(token_scores),
    )
    return rewards, used


def check_rewards(
    op: str,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> None:
    """Raises TypeError or ValueError unless these are what `kl_rewards` takes; `op` is who asks."""
    optional = {"kl": kl, "token_scores": token_scores}
    tensors(
        op,
        optional,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        scores=scores,
        response_mask=response_mask,
    )
    given = {name: one for name, one in optional.items() if one is not None}
    if logprobs.dim() != 2:
        raise shape_error(op, "logprobs must be [B, T]", logprobs)
    same_shape(op, logprobs, mask=response_mask, ref_logprobs=ref_logprobs, **given)
    if scores.shape != logprobs.shape[:1] or scores.device != logprobs.device:
        raise shape_error(op, f"scores must be [{logprobs.shape[0]}]", scores)


def check_penalty(op: str, beta: float, estimator: str) -> None:
    """Raises ValueError for an estimator that there is not, or a beta that is not finite."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"{op}: estimator '{estimator}' is not one of {', '.join(ESTIMATORS)}")
    finite(op, beta=beta)


def _estimate(log_ratio: Tensor, estimator: str) -> Tensor:
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    # exp(-lr) - 1 + lr would go negative in float32.
    return torch.expm1(-log_ratio) + log_ratio


def _reference(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> tuple[Tensor, Tensor]:
    outside = ~response_mask
    if kl is None:
        # The input of expm1 is masked: a NaN past the response must not come back as a gradient.
        kl = _estimate((logprobs - ref_logprobs).masked_fill(outside, 0.0), estimator)
    kl = kl.masked_fill(outside, 0.0)
    # `0.0 -` keeps positions without a penalty at +0.
    rewards = 0.0 - beta * kl
    if token_scores is not None:
        rewards = rewards + token_scores.masked_fill(outside, 0.0)
    after = response_mask.flip(1).cumsum(1).flip(1)
    last = response_mask & (after == 1)
    return rewards + scores.unsqueeze(1).masked_fill(~last, 0.0), kl


def check_layout(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
    values: Tensor | None = None,
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
        values=values,
    )


def _results(logprobs: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logprobs), torch.empty_like(logprobs)


def _check(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    return check_layout(logprobs, ref_logprobs, scores, response_mask, estimator, kl, token_scores)


OPERATION = TorchOp(
    "(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor response_mask, float beta,"
    " str estimator, Tensor? kl, Tensor? token_scores) -> (Tensor, Tensor)",
    _results,
    _check,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    zeros = torch.zeros(2, 4, device=device)
    mask = torch.ones(2, 4, dtype=torch.bool, device=device)
    return zeros, zeros, torch.zeros(2, device=device), mask, 0.1, "k1", None, None


def _triton_supports(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    estimator: str,
    kl: Tensor | None,
    token_scores: Tensor | None,
) -> str | None:
    return triton.refuse(logprobs, ref_logprobs, scores, kl, token_scores)


registry.define("kl_rewards", _reference, _probe)
_TRITON = OPERATION.define("triton_kl_rewards", triton.launcher("kl_rewards:kl_rewards"))
triton.register("kl_rewards", _TRITON, _triton_supports)
