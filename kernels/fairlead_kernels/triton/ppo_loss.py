"""`ppo_policy_loss` and `ppo_value_loss` in triton: sums and gradient in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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


def _finish(parts: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The results of the torch operation, from the blocks' sums."""
    totals = parts.sum(0, dtype=torch.float64).float()
    # Copies: two results of an operation do not share memory.
    return totals[0].clone(), totals[1:].clone(), gradient


def policy(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fairlead_kernels.ppo_policy_loss`, whose checks have run; with the gradient."""
    blocks = triton.cdiv(logprobs.numel(), _BLOCK)
    parts = torch.empty(blocks, 6, dtype=torch.float32, device=logprobs.device)
    slope = torch.empty_like(logprobs) if gradient else logprobs.new_empty(0)
    if blocks > 0:
        _policy_kernel[(blocks,)](
            logprobs,
            old_logprobs,
            advantages,
            mask.view(torch.uint8),
            parts,
            slope if gradient else parts,
            logprobs.numel(),
            1.0 - clip,
            1.0 + clip,
            gradient,
            _BLOCK,
        )
    return _finish(parts, slope)


def value(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fairlead_kernels.ppo_value_loss`, whose checks have run; with the gradient."""
    blocks = triton.cdiv(values.numel(), _BLOCK)
    parts = torch.empty(blocks, 3, dtype=torch.float32, device=values.device)
    slope = torch.empty_like(values) if gradient else values.new_empty(0)
    if blocks > 0:
        _value_kernel[(blocks,)](
            values,
            old_values,
            returns,
            mask.view(torch.uint8),
            parts,
            slope if gradient else parts,
            values.numel(),
            0.0 if clip is None else clip,
            clip is not None,
            gradient,
            _BLOCK,
        )
    return _finish(parts, slope)
