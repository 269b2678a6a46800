"""`ppo_policy_loss` and `ppo_value_loss` in triton: sums and gradient in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairlead_kernels.ppo_loss import PolicyLossMetrics, ValueLossMetrics
from fairlead_kernels.triton.exponential import exp

__all__ = ["policy", "value"]

_BLOCK = 1024


@triton.jit
def _larger(a, b):  # type: ignore[no-untyped-def]
    # NaN where either is.
    return tl.where(b == b, tl.where(a < b, b, a), b)


@triton.jit
def _share(taken, other):  # type: ignore[no-untyped-def]
    # What of a gradient goes through a maximum's `taken` side: half where both are equal.
    return tl.where(taken < other, 0.0, tl.where(taken == other, 0.5, 1.0))


@triton.jit  # type: ignore[untyped-decorator]
def _policy_kernel(  # type: ignore[no-untyped-def]
    logprobs,
    old_logprobs,
    advantages,
    mask,
    parts,
    gradient,
    count,
    lowest,
    highest,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    part = tl.program_id(0).to(tl.int64)
    at = part * block + tl.arange(0, block)
    inside = tl.load(mask + at, mask=at < count, other=0) != 0
    log_ratio = tl.load(logprobs + at, mask=inside, other=0.0)
    log_ratio -= tl.load(old_logprobs + at, mask=inside, other=0.0)
    advantage = tl.load(advantages + at, mask=inside, other=0.0)
    ratio = exp(log_ratio)
    clipped_ratio = tl.where(ratio < lowest, lowest, ratio)
    clipped_ratio = tl.where(clipped_ratio > highest, highest, clipped_ratio)
    free = -advantage * ratio
    clipped = -advantage * clipped_ratio
    counted = tl.where(inside, ratio, 0.0)
    parts += part * 6
    tl.store(parts, tl.sum(_larger(free, clipped), axis=0))
    tl.store(parts + 1, tl.sum(inside.to(tl.float32), axis=0))
    tl.store(parts + 2, 0.5 * tl.sum(log_ratio * log_ratio, axis=0))
    tl.store(parts + 3, tl.sum((inside & (clipped > free)).to(tl.float32), axis=0))
    tl.store(parts + 4, tl.sum(counted, axis=0))
    tl.store(parts + 5, tl.sum(counted * counted, axis=0))
    if wanted:
        within = (ratio >= lowest) & (ratio <= highest)
        passed = _share(free, clipped) + tl.where(within, _share(clipped, free), 0.0)
        slope = tl.where(inside, -advantage * passed * ratio, 0.0)
        tl.store(gradient + at, slope, mask=at < count)


@triton.jit  # type: ignore[untyped-decorator]
def _value_kernel(  # type: ignore[no-untyped-def]
    values,
    old_values,
    returns,
    mask,
    parts,
    gradient,
    count,
    clip,
    clips: tl.constexpr,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    part = tl.program_id(0).to(tl.int64)
    at = part * block + tl.arange(0, block)
    inside = tl.load(mask + at, mask=at < count, other=0) != 0
    value = tl.load(values + at, mask=inside, other=0.0)
    target = tl.load(returns + at, mask=inside, other=0.0)
    distance = value - target
    free = distance * distance
    error = free
    passed = tl.zeros_like(free) + 1.0
    took_clipped = tl.zeros_like(free)
    if clips:
        old = tl.load(old_values + at, mask=inside, other=0.0)
        lowest, highest = old - clip, old + clip
        within = (value >= lowest) & (value <= highest)
        # Unequal to itself where the old value is NaN, as torch.clamp has it.
        bounded = tl.where(value >= lowest, value, lowest)
        clipped_distance = tl.where(bounded > highest, highest, bounded) - target
        clipped = clipped_distance * clipped_distance
        error = _larger(free, clipped)
        passed = _share(free, clipped) + tl.where(within, _share(clipped, free), 0.0)
        took_clipped = (inside & (clipped > free)).to(tl.float32)
    parts += part * 3
    tl.store(parts, 0.5 * tl.sum(error, axis=0))
    tl.store(parts + 1, tl.sum(inside.to(tl.float32), axis=0))
    tl.store(parts + 2, tl.sum(took_clipped, axis=0))
    if wanted:
        tl.store(gradient + at, tl.where(inside, distance * passed, 0.0), mask=at < count)


class _WithGradient(torch.autograd.Function):
    """The loss as a function of its first input, whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return of_loss * gradient, None, None


def _workspace(first: Tensor, sums: int) -> tuple[Tensor, Tensor | None, int]:
    """The blocks' sums, the gradient's memory if there is to be one, and the number of blocks."""
    blocks = triton.cdiv(first.numel(), _BLOCK)
    parts = torch.empty(blocks, sums, dtype=torch.float32, device=first.device)
    wanted = first.requires_grad and torch.is_grad_enabled()
    return parts, torch.empty_like(first) if wanted else None, blocks


def _finish(first: Tensor, parts: Tensor, gradient: Tensor | None) -> tuple[Tensor, ...]:
    """The loss, with its gradient, and the other sums."""
    loss, *others = parts.sum(0, dtype=torch.float64).float().unbind()
    if gradient is not None:
        loss = _WithGradient.apply(first, loss, gradient)  # type: ignore[no-untyped-call]
    return loss, *others


def policy(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor, PolicyLossMetrics]:
    """As `fairlead_kernels.ppo_policy_loss`, whose checks have run."""
    parts, gradient, blocks = _workspace(logprobs, 6)
    if blocks > 0:
        _policy_kernel[(blocks,)](
            logprobs.detach(),
            old_logprobs,
            advantages,
            mask.view(torch.uint8),
            parts,
            parts if gradient is None else gradient,
            logprobs.numel(),
            1.0 - clip,
            1.0 + clip,
            gradient is not None,
            _BLOCK,
        )
    loss, weight, *metrics = _finish(logprobs, parts, gradient)
    return loss, weight, PolicyLossMetrics(*metrics)


def value(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor, ValueLossMetrics]:
    """As `fairlead_kernels.ppo_value_loss`, whose checks have run."""
    parts, gradient, blocks = _workspace(values, 3)
    if blocks > 0:
        _value_kernel[(blocks,)](
            values.detach(),
            old_values,
            returns,
            mask.view(torch.uint8),
            parts,
            parts if gradient is None else gradient,
            values.numel(),
            0.0 if clip is None else clip,
            clip is not None,
            gradient is not None,
            _BLOCK,
        )
    loss, weight, *metrics = _finish(values, parts, gradient)
    return loss, weight, ValueLossMetrics(*metrics)
