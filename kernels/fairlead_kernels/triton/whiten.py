"""`whiten` in triton, in two launches: the moments of each block, and their sum and the result.

There are no atomics: what is added to what depends on the shape alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["store_moments", "whiten", "whiten_by_parts"]

_BLOCK = 4096
_PARTS = 1024
_MOMENTS = 3


@triton.jit
def store_moments(x, inside, parts, part):  # type: ignore[no-untyped-def]
    """Count, mean and squares about the mean, of the elements of `x` [n] that are inside."""
    counted = tl.sum(inside.to(tl.int32), axis=0)
    count = tl.maximum(counted, 1).to(tl.float64)
    near = tl.sum(tl.where(inside, x, 0.0), axis=0) / count.to(tl.float32)
    # About a number near the mean nothing cancels, and what it is off by is taken off.
    away = tl.where(inside, x.to(tl.float64) - near.to(tl.float64), 0.0)
    shift = tl.sum(away, axis=0) / count
    squares = tl.sum(away * away, axis=0) - count * shift * shift
    tl.store(parts + part * 3, counted.to(tl.float64))
    tl.store(parts + part * 3 + 1, near.to(tl.float64) + shift)
    tl.store(parts + part * 3 + 2, squares)


@triton.jit  # type: ignore[untyped-decorator]
def _moments_kernel(x, mask, parts, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    part = tl.program_id(0).to(tl.int64)
    at = part * block + tl.arange(0, block)
    inside = tl.load(mask + at, mask=at < count, other=0) != 0
    store_moments(tl.load(x + at, mask=inside, other=0.0), inside, parts, part)


@triton.jit  # type: ignore[untyped-decorator]
def _whiten_kernel(  # type: ignore[no-untyped-def]
    x,
    mask,
    result,
    parts,
    part_count,
    count,
    eps,
    shift_mean: tl.constexpr,
    block: tl.constexpr,
    parts_block: tl.constexpr,
):
    inside_count = tl.zeros([parts_block], tl.float64)
    total = tl.zeros([parts_block], tl.float64)
    for first in range(0, part_count, parts_block):
        part = first + tl.arange(0, parts_block)
        n = tl.load(parts + part * 3, mask=part < part_count, other=0.0)
        inside_count += n
        total += n * tl.load(parts + part * 3 + 1, mask=part < part_count, other=0.0)
    n_all = tl.maximum(tl.sum(inside_count, axis=0), 1.0)
    mean = tl.sum(total, axis=0) / n_all
    squares = tl.zeros([parts_block], tl.float64)
    for first in range(0, part_count, parts_block):
        part = first + tl.arange(0, parts_block)
        n = tl.load(parts + part * 3, mask=part < part_count, other=0.0)
        away = tl.load(parts + part * 3 + 1, mask=part < part_count, other=0.0) - mean
        own = tl.load(parts + part * 3 + 2, mask=part < part_count, other=0.0)
        # A part without positions must not bring in 0 * inf.
        squares += tl.where(n > 0.0, own + n * away * away, 0.0)
    scale = (1.0 / tl.sqrt(tl.sum(squares, axis=0) / n_all + eps)).to(tl.float32)
    rounded = mean.to(tl.float32)
    rest = (mean - rounded.to(tl.float64)).to(tl.float32)
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = tl.load(mask + at, mask=at < count, other=0) != 0
    value = (tl.load(x + at, mask=inside, other=0.0) - rounded - rest) * scale
    if not shift_mean:
        value += rounded
    tl.store(result + at, tl.where(inside, value, 0.0), mask=at < count)


def whiten_by_parts(
    x: Tensor, mask: Tensor, result: Tensor, parts: Tensor, shift_mean: bool, eps: float
) -> None:
    """The second launch; `parts` are the moments, and `result` may be `x`."""
    count = x.numel()
    _whiten_kernel[(triton.cdiv(count, _BLOCK),)](
        x, mask, result, parts, len(parts), count, eps, shift_mean, _BLOCK, _PARTS
    )


def whiten(x: Tensor, mask: Tensor, shift_mean: bool, eps: float) -> Tensor:
    """As `fairlead_kernels.whiten`, whose checks have run."""
    result = torch.empty_like(x)
    count = x.numel()
    if count == 0:
        return result
    blocks = triton.cdiv(count, _BLOCK)
    parts = torch.empty(blocks, _MOMENTS, dtype=torch.float64, device=x.device)
    bytes_of_mask = mask.view(torch.uint8)
    _moments_kernel[(blocks,)](x, bytes_of_mask, parts, count, _BLOCK)
    whiten_by_parts(x, bytes_of_mask, result, parts, shift_mean, eps)
    return result
