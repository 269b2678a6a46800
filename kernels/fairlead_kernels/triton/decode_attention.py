"""`decode_attention` in triton: splits of a fixed size, then one small launch that merges them.

The split size is a constant, and a row's splits are merged in their order, so that a result depends
neither on the other rows nor on the size of the cache. Lengths are read on the device: the grid
covers the whole cache, and a program whose split lies past its row's length ends at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels.decode_attention import check_lengths

__all__ = ["decode_attention"]

_SPLIT = 256
_MOST_BLOCK = 64
# A tensor core's product has at least so many rows.
_LEAST_DOT = 16
# Of a block's keys. With its values, and as much again that is loaded ahead, they have to fit into
# the 99 KiB that a program can have on the smallest of today's GPUs.
_BLOCK_BYTES = 16 << 10


def _block(dim_block: int, itemsize: int) -> int:
    """Positions that are taken in at a time."""
    return max(_LEAST_DOT, min(_MOST_BLOCK, _BLOCK_BYTES // (dim_block * itemsize)))


@triton.jit
def _length(lengths, row, positions):  # type: ignore[no-untyped-def]
    length = tl.load(lengths + row)
    return tl.minimum(tl.maximum(length, 0), positions).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _taken_in(  # type: ignore[no-untyped-def]
    q, k, v, counts, scale, sums, largest, total, group_block: tl.constexpr
):
    """Weighted values, the largest score and the sum of weights, with a block of positions more."""
    if group_block == 1:
        scores = tl.sum(q.to(tl.float32) * k.to(tl.float32), axis=1)[None, :]
    else:
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    scores = tl.where(counts[None, :], scores * scale, float("-inf"))
    new = tl.maximum(largest, tl.max(scores, axis=1))
    # With nothing but -inf so far, -inf - -inf would be NaN.
    base = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp(scores - base[:, None])
    shrink = tl.exp(largest - base)
    total = total * shrink + tl.sum(weights, axis=1)
    sums *= shrink[:, None]
    if group_block == 1:
        sums += tl.sum(tl.trans(weights) * v.to(tl.float32), axis=0)[None, :]
    else:
        # A 16-bit weight would cost accuracy: its rounding error goes through as a second one.
        high = weights.to(v.dtype)
        sums = tl.dot(high, v, sums, input_precision="ieee")
        if v.dtype != tl.float32:
            low = (weights - high.to(tl.float32)).to(v.dtype)
            sums = tl.dot(low, v, sums, input_precision="ieee")
    return sums, new, total


@triton.jit  # type: ignore[untyped-decorator]
def _attend_split(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    lengths,
    partial_sums,
    partial_largest,
    partial_totals,
    kv_heads,
    positions,
    splits,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    key_position,
    value_row,
    value_head,
    value_position,
    group: tl.constexpr,
    group_block: tl.constexpr,
    dim: tl.constexpr,
    dim_block: tl.constexpr,
    split_size: tl.constexpr,
    block: tl.constexpr,
):
    row = (tl.program_id(0) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(0) % kv_heads).to(tl.int64)
    split = tl.program_id(1)
    start = split * split_size
    end = tl.minimum(_length(lengths, row, positions), start + split_size)
    if start >= end:
        return
    heads = tl.arange(0, group_block)
    dims = tl.arange(0, dim_block)
    inside = dims < dim
    head = kv_head * group + heads
    q = tl.load(
        query + row * query_row + head[:, None] * query_head + dims[None, :],
        mask=(heads < group)[:, None] & inside[None, :],
        other=0.0,
    )
    keys += row * key_row + kv_head * key_head
    values += row * value_row + kv_head * value_head
    sums = tl.zeros([group_block, dim_block], tl.float32)
    largest = tl.full([group_block], float("-inf"), tl.float32)
    total = tl.zeros([group_block], tl.float32)
    for first in range(start, end, block):
        at = first + tl.arange(0, block)
        counts = at < end
        # What does not count is never read, NaN or not.
        mask = counts[:, None] & inside[None, :]
        at = at.to(tl.int64)
        k = tl.load(keys + at[:, None] * key_position + dims[None, :], mask=mask, other=0.0)
        v = tl.load(values + at[:, None] * value_position + dims[None, :], mask=mask, other=0.0)
        sums, largest, total = _taken_in(q, k, v, counts, scale, sums, largest, total, group_block)
    out = (row * kv_heads * group + head) * splits + split
    tl.store(partial_largest + out, largest, mask=heads < group)
    tl.store(partial_totals + out, total, mask=heads < group)
    tl.store(
        partial_sums + out[:, None] * dim + dims[None, :],
        sums,
        mask=(heads < group)[:, None] & inside[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _merge(  # type: ignore[no-untyped-def]
    partial_sums,
    partial_largest,
    partial_totals,
    lengths,
    out,
    heads,
    positions,
    splits,
    dim: tl.constexpr,
    dim_block: tl.constexpr,
    split_size: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    length = _length(lengths, head // heads, positions)
    used = tl.cdiv(length, split_size)
    dims = tl.arange(0, dim_block)
    inside = dims < dim
    sums = tl.zeros([dim_block], tl.float32)
    largest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for split in range(0, used):
        at = head * splits + split
        other = tl.load(partial_largest + at)
        new = tl.maximum(largest, other)
        base = tl.where(new == float("-inf"), 0.0, new)
        shrink = tl.exp(largest - base)
        weight = tl.exp(other - base)
        total = total * shrink + tl.load(partial_totals + at) * weight
        part = tl.load(partial_sums + at * dim + dims, mask=inside, other=0.0)
        sums = sums * shrink + part * weight
        largest = new
    result = sums / tl.where(length > 0, total, 1.0)
    tl.store(out + head * dim + dims, result.to(out.dtype.element_ty), mask=inside)


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    """`fairlead_kernels.decode_attention`; the query has the cache's dtype."""
    check_lengths(lengths, keys.shape[2])
    batch, heads, dim = query.shape
    kv_heads, positions = keys.shape[1:3]
    group = heads // kv_heads
    out = torch.empty((batch, heads, dim), dtype=query.dtype, device=query.device)
    if out.numel() == 0:
        return out
    splits = max(triton.cdiv(positions, _SPLIT), 1)
    partials = torch.empty(
        (dim + 2) * batch * heads * splits, dtype=torch.float32, device=query.device
    )
    sums, largest, totals = partials.split([batch * heads * splits * n for n in (dim, 1, 1)])
    dim_block = max(triton.next_power_of_2(dim), _LEAST_DOT)
    _attend_split[(batch * kv_heads, splits)](
        query,
        keys,
        values,
        lengths,
        sums,
        largest,
        totals,
        kv_heads,
        positions,
        splits,
        scale,
        *query.stride()[:2],
        *keys.stride()[:3],
        *values.stride()[:3],
        group=group,
        group_block=1 if group == 1 else max(triton.next_power_of_2(group), _LEAST_DOT),
        dim=dim,
        dim_block=dim_block,
        split_size=_SPLIT,
        block=_block(dim_block, keys.element_size()),
    )
    _merge[(batch * heads,)](
        sums,
        largest,
        totals,
        lengths,
        out,
        heads,
        positions,
        splits,
        dim=dim,
        dim_block=dim_block,
        split_size=_SPLIT,
    )
    return out
