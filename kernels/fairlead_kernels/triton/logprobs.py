"""The Triton kernels of `token_logprobs` and `linear_logprobs`, over a block of logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairlead_kernels._logprob_ops import Block
from fairlead_kernels.token_logprobs import largest_entropy
from fairlead_kernels.triton import INTERPRETED

__all__ = ["backward", "forward"]

_WIDE = 4096
_WARPS = 8
_FLOAT32 = torch.finfo(torch.float32)


@triton.jit
def _store_results(  # type: ignore[no-untyped-def]
    row,
    most,
    total,
    energy_total,
    at_label,
    inverse_temperature,
    most_entropy,
    logprobs,
    entropy,
    stats,
):
    """Of a row whose sums are complete."""
    # No finite logit: a sum of 0. With +inf or NaN in the row the sum is NaN already.
    total = tl.where(total > 0.0, total, float("nan"))
    log_total = tl.log(total)
    difference = at_label - most
    excluded = (difference == float("-inf")) & (total == total)
    energy = energy_total / total
    logprob = difference * inverse_temperature - log_total
    # Approximate logarithms of numbers just above 1 may come out below 0.
    logprob = tl.where(logprob > 0.0, 0.0, logprob)
    value = log_total + energy
    value = tl.where(value > most_entropy, most_entropy, value)
    value = tl.where(value < 0.0, 0.0, value)
    tl.store(logprobs + row, tl.where(excluded, float("-inf"), logprob))
    tl.store(entropy + row, value)
    of_stats = stats + row * 4
    tl.store(of_stats, most)
    tl.store(of_stats + 1, total)
    tl.store(of_stats + 2, energy)
    tl.store(of_stats + 3, tl.where(excluded, 0.0, 1.0))


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    logits,
    labels,
    state,
    logprobs,
    entropy,
    stats,
    cols,
    stride,
    first,
    vocabulary,
    inverse_temperature,
    largest_entropy,
    is_first: tl.constexpr,
    is_last: tl.constexpr,
    wide: tl.constexpr,
):
    """A row a program: the largest logit and the sums go along the row; the sums stay a vector."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, wide)
    of_row = state + row * 4
    if is_first:
        most = float("-inf")
        before_sum = 0.0
        before_weighted = 0.0
        at_label = float("nan")  # Of a label that no block has.
    else:
        most = tl.load(of_row)
        before_sum = tl.load(of_row + 1)
        before_weighted = tl.load(of_row + 2)
        at_label = tl.load(of_row + 3)
    first_lane = lanes == 0
    sums = tl.where(first_lane, before_sum, 0.0)
    weighted = tl.where(first_lane, before_weighted, 0.0)
    source = logits + row * stride
    for start in range(0, cols, wide):
        at = start + lanes
        x = tl.load(source + at, mask=at < cols, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(x, axis=0))
        # Without a finite logit so far the exponents below are -inf - 0, not -inf + inf.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        down = tl.where(most == float("-inf"), 0.0, (base - most) * inverse_temperature)
        factor = tl.exp(-down)
        # A `down` that is infinite comes with a factor of 0: no 0 * inf.
        weighted = factor * (weighted + tl.minimum(down, 1e30) * sums)
        sums = factor * sums
        z = (x - base) * inverse_temperature
        e = tl.exp(z)
        # exp is 0 from -104 down; an excluded token adds 0 * 104 and not 0 * inf.
        sums += e
        weighted -= e * tl.maximum(z, -104.0)
        most = higher
    total = tl.sum(sums, axis=0)
    energy_total = tl.sum(weighted, axis=0)
    label = tl.load(labels + row) - first
    here = (label >= 0) & (label < cols)
    own = tl.load(source + label, mask=here, other=0.0).to(tl.float32)
    at_label = tl.where(here, own, at_label)
    if is_last:
        _store_results(
            row,
            most,
            total,
            energy_total,
            at_label,
            inverse_temperature,
            largest_entropy,
            logprobs,
            entropy,
            stats,
        )
    else:
        tl.store(of_row, most)
        tl.store(of_row + 1, total)
        tl.store(of_row + 2, energy_total)
        tl.store(of_row + 3, at_label)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    logits,
    labels,
    stats,
    grad_logprobs,
    grad_entropy,
    grad_logits,
    cols,
    stride,
    grad_stride,
    first,
    inverse_temperature,
    has_logprobs: tl.constexpr,
    has_entropy: tl.constexpr,
    wide: tl.constexpr,
):
    """A part of a row a program, read before it is written: in place is safe."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = at < cols
    most = tl.load(stats + row * 4)
    total = tl.load(stats + row * 4 + 1)
    energy = tl.load(stats + row * 4 + 2)
    counts = tl.load(stats + row * 4 + 3) != 0.0
    of_logprob = 0.0
    of_entropy = 0.0
    if has_logprobs:
        of_logprob = tl.where(counts, tl.load(grad_logprobs + row), 0.0)
    if has_entropy:
        of_entropy = tl.load(grad_entropy + row)
    constant = of_logprob + of_entropy * energy
    x = tl.load(logits + row * stride + at, mask=inside, other=float("-inf")).to(tl.float32)
    z = (x - most) * inverse_temperature
    line = constant
    if has_entropy:
        line = constant + of_entropy * tl.maximum(z, -104.0)
    label = tl.load(labels + row) - first
    # p (constant + slope z), taken from the label's own 1: both terms at once, so that a token
    # that is nearly certain loses nothing to the order of the operations.
    of_label = tl.where(at == label, of_logprob, 0.0)
    grad = (of_label - tl.exp(z) / total * line) * inverse_temperature
    nothing = (of_logprob == 0.0) & (of_entropy == 0.0)
    grad = tl.where(nothing, 0.0, grad)
    target = grad_logits + row * grad_stride + at
    tl.store(target, grad.to(grad_logits.dtype.element_ty), mask=inside)


def _inverse(temperature: float) -> float:
    # At the ends of float32 0 * inf and -inf * 0 would be NaN.
    return min(max(1.0 / temperature, _FLOAT32.tiny), _FLOAT32.max)


def _wide(cols: int) -> int:
    # The interpreter's time goes by the operation, not by its width.
    widest = 1 << 20 if INTERPRETED else _WIDE
    return max(16, min(widest, 1 << (cols - 1).bit_length()))


def forward(
    block: Block, state: Tensor | None, logprobs: Tensor, entropy: Tensor, stats: Tensor
) -> None:
    """See `Forward`."""
    rows, cols = block.logits.shape
    if rows == 0:
        return
    _forward_kernel[(rows,)](
        *(block.logits, block.labels, stats if state is None else state),
        *(logprobs, entropy, stats),
        *(cols, block.logits.stride(0), block.first, block.vocabulary),
        *(_inverse(block.temperature), largest_entropy(block.vocabulary)),
        is_first=block.first == 0,
        is_last=block.first + cols == block.vocabulary,
        wide=_wide(cols),
        num_warps=_WARPS,
    )


def backward(
    block: Block,
    stats: Tensor,
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
    grad_logits: Tensor,
) -> None:
    """See `Backward`."""
    rows, cols = block.logits.shape
    if rows == 0:
        return
    wide = _wide(cols)
    _backward_kernel[(rows, triton.cdiv(cols, wide))](
        *(block.logits, block.labels, stats),
        *(stats if grad_logprobs is None else grad_logprobs,),
        *(stats if grad_entropy is None else grad_entropy,),
        grad_logits,
        *(cols, block.logits.stride(0), grad_logits.stride(0), block.first),
        _inverse(block.temperature),
        has_logprobs=grad_logprobs is not None,
        has_entropy=grad_entropy is not None,
        wide=wide,
        num_warps=_WARPS,
    )
