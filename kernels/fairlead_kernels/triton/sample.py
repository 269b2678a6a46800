"""`sample` in Triton: a program takes one row, or a few short ones.

A row is read once where nothing is cut off: the sums of eight chunks at a time, relative to each
chunk's own maximum, are scaled at the end; the drawn chunk is read again. The threshold of top-k or
top-p is searched for on the ordered bits of the logits, with 15 pivots a reading, eight at most.
"""

from __future__ import annotations

import ctypes

import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels.sample import CHUNK, OPERATION
from fairlead_kernels.triton import INTERPRETED

__all__ = ["sample"]

_GROUP = 8  # Chunks that are summed together.
# Logits in a tile, and among those of a search, where each meets 16 pivots; rows in both. The
# interpreter takes as long for many as for few.
_TILE, _SEARCH, _ROWS = (1 << 16, 1 << 15, 256) if INTERPRETED else (8192, 1024, 8)

_LEAST = tl.constexpr(-3.4028234663852886e38)  # The lowest finite float: -inf is never kept.
_HALF = tl.constexpr(1 << 31)


@triton.jit
def _key_of(x):  # type: ignore[no-untyped-def]
    """Numbers that are ordered as the floats are, the two zeros equal."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits >= 0, bits + _HALF, -1 - bits)


@triton.jit
def _value_of(key):  # type: ignore[no-untyped-def]
    bits = tl.where(key >= _HALF, key - _HALF, -1 - key)
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _weigh(x, largest, temperature, least):  # type: ignore[no-untyped-def]
    """z, e^z, both 0 where a token is not kept, and where it is. NaN is kept."""
    z = tl.div_rn(x - largest, temperature)
    kept = ~((x < least) | (z < _LEAST))
    z = tl.where(kept, z, 0.0)
    return z, tl.where(kept, tl.exp(z), 0.0), kept


@triton.jit  # type: ignore[untyped-decorator]
def _threshold(  # type: ignore[no-untyped-def]
    row,
    inside,
    cols,
    target,
    largest,
    temperature,
    least,
    by_mass: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """The largest value such that the kept tokens from it up weigh at least the target."""
    pivots = tl.arange(0, 16) + 1  # The last lies past the end: nothing is as large as NaN.
    low = _key_of(least)
    high = tl.maximum(_key_of(largest), low) + 1
    while tl.max(high - low, axis=0) > 1:
        step = (high - low + 15) // 16
        keys = low[:, None] + pivots[None, :] * step[:, None]
        values = tl.where(keys < high[:, None], _value_of(keys), float("nan"))
        sums = tl.zeros([tile, block, 16], tl.float64)
        for start in range(0, cols, block):
            at = start + tl.arange(0, block)
            within = inside[:, None] & (at < cols)[None, :]
            x = tl.load(row[:, None] + at[None, :], within, float("-inf")).to(tl.float32)
            if by_mass:
                _, weight, _ = _weigh(x, largest[:, None], temperature, least[:, None])
                weight = weight.to(tl.float64)
            else:
                weight = tl.full([tile, block], 1.0, tl.float64)
            sums += tl.where(x[:, :, None] >= values[:, None, :], weight[:, :, None], 0.0)
        reached = tl.sum((tl.sum(sums, axis=1) >= target[:, None]).to(tl.int64), axis=1)
        low += reached * step
        high = tl.minimum(high, low + step)
    return _value_of(low)


@triton.jit
def _first_above(weights, target, order):  # type: ignore[no-untyped-def]
    """The first index whose running sum exceeds the target, else the last with a weight."""
    above = (tl.cumsum(weights, axis=1) > target[:, None]) & (weights > 0)
    first = tl.min(tl.where(above, order[None, :], 1 << 30), axis=1)
    last = tl.max(tl.where(weights > 0, order[None, :], 0), axis=1)
    return tl.where(first < (1 << 30), first, last)


@triton.jit  # type: ignore[untyped-decorator]
def _least_kept(  # type: ignore[no-untyped-def]
    row,
    inside,
    cols,
    temperature,
    top_k,
    top_p_high,
    top_p_low,
    greedy: tl.constexpr,
    has_top_k: tl.constexpr,
    has_top_p: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """The smallest logit that top-k and top-p leave."""
    least = tl.full([tile], _LEAST, tl.float32)
    largest = tl.full([tile], float("-inf"), tl.float32)
    for start in range(0, cols, block):
        at = start + tl.arange(0, block)
        within = inside[:, None] & (at < cols)[None, :]
        x = tl.load(row[:, None] + at[None, :], within, float("-inf")).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, float("-inf")), axis=1))
    if greedy:
        least = tl.maximum(least, largest)
    if has_top_k:
        target = tl.full([tile], 0.0, tl.float64) + top_k
        least = _threshold(
            row, inside, cols, target, largest, temperature, least, False, tile, block
        )
    if has_top_p:
        sums = tl.zeros([tile, block], tl.float64)
        for start in range(0, cols, block):
            at = start + tl.arange(0, block)
            within = inside[:, None] & (at < cols)[None, :]
            x = tl.load(row[:, None] + at[None, :], within, float("-inf")).to(tl.float32)
            _, weight, _ = _weigh(x, largest[:, None], temperature, least[:, None])
            sums += weight.to(tl.float64)
        # Triton takes a Python float as a float32: the share comes in two of them.
        share = tl.to_tensor(top_p_high).to(tl.float64) + tl.to_tensor(top_p_low).to(tl.float64)
        least = _threshold(
            row,
            inside,
            cols,
            share * tl.sum(sums, axis=1),
            largest,
            temperature,
            least,
            True,
            tile,
            block,
        )
    return least


@triton.jit  # type: ignore[untyped-decorator]
def _chunk_sums(  # type: ignore[no-untyped-def]
    row,
    inside,
    cols,
    temperature,
    least,
    tile: tl.constexpr,
    groups: tl.constexpr,
    group_size: tl.constexpr,
    width: tl.constexpr,
):
    """Each chunk's largest kept logit, its sums relative to that, and how many it keeps."""
    largest = tl.full([tile, groups, group_size], float("-inf"), tl.float32)
    weight = tl.zeros([tile, groups, group_size], tl.float64)
    weighted_z = tl.zeros([tile, groups, group_size], tl.float64)
    kept = tl.zeros([tile, groups, group_size], tl.int32)
    within_group = tl.arange(0, group_size)[:, None] * width + tl.arange(0, width)[None, :]
    for group in range(0, tl.cdiv(cols, group_size * width)):
        at = group * (group_size * width) + within_group
        within = inside[:, None, None] & (at < cols)[None, :, :]
        x = tl.load(row[:, None, None] + at[None, :, :], within, float("-inf")).to(tl.float32)
        most = tl.max(tl.where(x >= least[:, None, None], x, float("-inf")), axis=2)
        most = tl.where(most > float("-inf"), most, 0.0)
        z, w, is_kept = _weigh(x, most[:, :, None], temperature, least[:, None, None])
        here = (tl.arange(0, groups) == group)[None, :, None]
        count = tl.sum(is_kept.to(tl.int32), axis=2)
        most = tl.where(count > 0, most, float("-inf"))
        largest = tl.where(here, most[:, None, :], largest)
        weight = tl.where(here, tl.sum(w.to(tl.float64), axis=2)[:, None, :], weight)
        weighted_z = tl.where(here, tl.sum((w * z).to(tl.float64), axis=2)[:, None, :], weighted_z)
        kept = tl.where(here, count[:, None, :], kept)
    chunks: tl.constexpr = groups * group_size
    return (
        tl.reshape(largest, [tile, chunks]),
        tl.reshape(weight, [tile, chunks]),
        tl.reshape(weighted_z, [tile, chunks]),
        tl.reshape(kept, [tile, chunks]),
    )


@triton.jit
def _largest_entropy(kept):  # type: ignore[no-untyped-def]
    """The largest float32 that is at most log(kept)."""
    exact = tl.log(kept.to(tl.float64))
    bound = exact.to(tl.float32)
    next_lower = (bound.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
    return tl.where(bound.to(tl.float64) > exact, next_lower, bound)


@triton.jit  # type: ignore[untyped-decorator]
def _sample_kernel(  # type: ignore[no-untyped-def]
    logits,
    uniform,
    tokens,
    logprobs,
    entropies,
    rows,
    cols,
    stride,
    temperature,
    top_k,
    top_p_high,
    top_p_low,
    greedy: tl.constexpr,
    has_top_k: tl.constexpr,
    has_top_p: tl.constexpr,
    tile: tl.constexpr,
    groups: tl.constexpr,
    group_size: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = index < rows
    row = logits + index * stride
    if greedy or has_top_k or has_top_p:
        least = _least_kept(
            row,
            inside,
            cols,
            temperature,
            top_k,
            top_p_high,
            top_p_low,
            greedy,
            has_top_k,
            has_top_p,
            tile,
            block,
        )
    else:
        least = tl.full([tile], _LEAST, tl.float32)

    largest, weight, weighted_z, kept = _chunk_sums(
        row, inside, cols, temperature, least, tile, groups, group_size, width
    )
    # All relative to the row's largest. A chunk that has no weight in float32 has none here, so
    # that no draw can end in it.
    top = tl.max(largest, axis=1)
    shift = (largest.to(tl.float64) - top.to(tl.float64)[:, None]) / tl.to_tensor(temperature).to(
        tl.float64
    )
    _, heaviest, _ = _weigh(largest, top[:, None], temperature, least[:, None])
    empty = (kept == 0) | (heaviest == 0)
    scale = tl.where(empty, 0.0, tl.exp(tl.where(empty, 0.0, shift)))
    weighted_z = tl.where(empty, 0.0, scale * (weighted_z + weight * shift))
    weight *= scale
    total = tl.sum(weight, axis=1)

    chunk_order = tl.arange(0, groups * group_size)
    target = total * 0.0 if greedy else total * tl.load(uniform + index, inside, 0.0)
    chunk = _first_above(weight, target, chunk_order)
    before = tl.sum(tl.where(chunk_order[None, :] < chunk[:, None], weight, 0.0), axis=1)
    order = tl.arange(0, width)
    at = chunk.to(tl.int64)[:, None] * width + order[None, :]
    within = inside[:, None] & (at < cols)
    x = tl.load(row[:, None] + at, within, float("-inf")).to(tl.float32)
    z, w, _ = _weigh(x, top[:, None], temperature, least[:, None])
    token = _first_above(w.to(tl.float64), target - before, order)
    drawn_z = tl.sum(tl.where(order[None, :] == token[:, None], z, 0.0), axis=1)

    log_total = tl.log(total)
    logprob = (drawn_z.to(tl.float64) - log_total).to(tl.float32)
    entropy = (log_total - tl.sum(weighted_z, axis=1) / total).to(tl.float32)
    entropy = tl.minimum(entropy, _largest_entropy(tl.sum(kept, axis=1)))
    if greedy:
        logprob = logprob * 0.0
        entropy = entropy * 0.0
    # NaN with a NaN or +inf in the row, 0 without a finite logit.
    usable = total > 0
    tl.store(tokens + index, tl.where(usable, chunk * width + token, 0).to(tl.int64), inside)
    tl.store(logprobs + index, tl.where(usable, logprob, float("nan")), inside)
    tl.store(entropies + index, tl.where(usable, entropy, float("nan")), inside)


def sample(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `fairlead_kernels.sample`."""
    rows, cols = logits.shape
    results: tuple[Tensor, Tensor, Tensor] = OPERATION.results(logits)
    if rows == 0:
        return results
    chunks = triton.cdiv(cols, CHUNK)
    # One chunk need not be whole: zeros change no sum.
    width = CHUNK if chunks > 1 else max(16, triton.next_power_of_2(cols))
    group = min(_GROUP, triton.next_power_of_2(chunks))
    tile = min(_ROWS, max(1, _TILE // (group * width)), triton.next_power_of_2(rows))
    greedy = temperature == 0
    top_p_high = ctypes.c_float(top_p).value
    _sample_kernel[(triton.cdiv(rows, tile),)](
        logits,
        u,
        *results,
        rows,
        cols,
        logits.stride(0),
        # As at a temperature so low that nothing but the largest has a weight.
        1.0 if greedy else float(temperature),
        top_k,
        top_p_high,
        top_p - top_p_high,
        greedy=greedy,
        has_top_k=not greedy and 0 < top_k < cols,
        has_top_p=not greedy and top_p < 1,
        tile=tile,
        groups=triton.next_power_of_2(triton.cdiv(chunks, group)),
        group_size=group,
        width=width,
        block=min(width, max(16, _SEARCH // tile)),
        num_warps=8,
    )
    return results
