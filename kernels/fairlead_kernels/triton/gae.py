"""`gae` in triton: an associative scan over time, from the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels.triton.kl_rewards import tile

__all__ = ["advantages_of", "gae"]


@triton.jit
def _join(later_weight, later, weight, sum_here):  # type: ignore[no-untyped-def]
    return later_weight * weight, sum_here + weight * later


@triton.jit
def advantages_of(deltas, gamma_lambda, carry):  # type: ignore[no-untyped-def]
    """Those of a tile [rows, positions], with the advantages just after it in `carry` [rows]."""
    weights = tl.zeros_like(deltas) + gamma_lambda
    weights, advantages = tl.associative_scan((weights, deltas), 1, _join, reverse=True)
    return advantages + weights * carry[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    rewards,
    values,
    mask,
    advantages,
    returns,
    rows,
    cols,
    gamma,
    gamma_lambda,
    rows_block: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    carry = tl.zeros([rows_block], tl.float32)
    steps = tl.cdiv(cols, block)
    for step in range(0, steps):
        start = (steps - 1 - step) * block
        t = start + tl.arange(0, block)
        at = row[:, None] * cols + t[None, :]
        there = (row < rows)[:, None] & (t < cols)[None, :]
        followed = there & (t + 1 < cols)[None, :]
        inside = tl.load(mask + at, mask=there, other=0) != 0
        goes_on = tl.load(mask + at + 1, mask=followed, other=0) != 0
        value = tl.load(values + at, mask=inside, other=0.0)
        after = tl.load(values + at + 1, mask=goes_on, other=0.0)
        deltas = tl.load(rewards + at, mask=inside, other=0.0) + gamma * after - value
        result = advantages_of(deltas, gamma_lambda, carry)
        carry = tl.sum(tl.where((t == start)[None, :], result, 0.0), axis=1)
        tl.store(advantages + at, tl.where(inside, result, 0.0), mask=there)
        tl.store(returns + at, tl.where(inside, result + value, 0.0), mask=there)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """As `fairlead_kernels.gae`, whose checks have run."""
    rows, cols = rewards.shape
    advantages, returns = torch.empty_like(rewards), torch.empty_like(rewards)
    if rewards.numel() == 0:
        return advantages, returns
    rows_block, block = tile(cols)
    _kernel[(triton.cdiv(rows, rows_block),)](
        rewards,
        values,
        response_mask.view(torch.uint8),
        advantages,
        returns,
        rows,
        cols,
        float(gamma),
        float(gamma * lam),
        rows_block,
        block,
    )
    return advantages, returns
