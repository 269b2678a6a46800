"""Causal attention within sequences that lie end to end in one row, as training runs them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels._checks import finite, shown, takes, tensors, values_can_be_read
from fairlead_kernels._torch_op import Operation, TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "ragged_attention"]

_OP = "ragged_attention"


def ragged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    offsets: Tensor,
    longest: int,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Causal attention of N positions that belong to B sequences, none of which sees another.

    `out[i, h] = sum_j softmax_j(scale query[i, h] . keys[j, k]) values[j, k]`, j from the start of
    i's sequence to i, k = h // (H / Hkv): Vaswani et al. 2017 (arXiv 1706.03762, equation 1), and
    for shared keys Ainslie et al. 2023 (arXiv 2305.13245). Sequence b has the positions from
    `offsets[b]` to `offsets[b + 1]`; those past the last offset are nobody's, and give zeros.

    `cpp` computes in float32 whatever the dtype, rounds results and gradients once, keeps N H
    numbers for the backward beside its inputs and its result, and does nothing for padding: there
    is none. Its results are the same in every bit whatever the other sequences and the number of
    threads. The reference pads the sequences and calls torch's attention.

    A NaN or inf in a sequence may make all of its results NaN, and no other sequence's. There is
    no second derivative but the reference's.

    Args:
        query: `[N, H, D]`, floating, the last dimension contiguous; `cpp` takes float32, bfloat16
            and float16.
        keys: `[N, Hkv, D]`, of the query's dtype; H is a multiple of Hkv.
        values: `[N, Hkv, D]`, likewise.
        offsets: `[B + 1]` int64, rising from 0 to at most N.
        longest: Positions of the longest sequence, or more. An integer, so that a GPU need not be
            waited for.
        scale: What a score is multiplied by; None for 1 / sqrt(D).
        impl: An implementation's name, or `auto`.

    Returns:
        `[N, H, D]`, in the query's dtype.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype, stride or offset that is not the above, or a scale that is not
            finite. Offsets are not looked at on a GPU.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors(_OP, query=query, keys=keys, values=values, offsets=offsets)
    problem = _problem(query, keys, values, offsets)
    if problem is not None:
        raise ValueError(f"{_OP}: {problem}")
    _check_offsets(offsets, query.shape[0], longest)
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else scale
    finite(_OP, scale=scale)
    result: Tensor = registry.call(_OP, impl, query, keys, values, offsets, longest, scale)
    return result


def _problem(
    query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, *_others: object
) -> str | None:
    """Why these tensors are not what the operation takes, or None."""
    if query.dim() != 3 or not query.is_floating_point() or query.shape[2] == 0:
        return f"query must be floating [N, H, D], got {shown(query)}"
    positions, heads, dim = query.shape
    if keys.dim() != 3 or keys.dtype != query.dtype or keys.shape[::2] != (positions, dim):
        return f"keys must be [{positions}, Hkv, {dim}] {query.dtype}, got {shown(keys)}"
    if values.shape != keys.shape or values.dtype != keys.dtype:
        return f"values must be {tuple(keys.shape)} {keys.dtype}, got {shown(values)}"
    if keys.shape[1] == 0 or heads % keys.shape[1]:
        return f"{heads} query heads are no multiple of the keys' heads, got {shown(keys)}"
    if offsets.dim() != 1 or not len(offsets) or offsets.dtype != torch.int64:
        return f"offsets must be [B + 1] int64, got {shown(offsets)}"
    if not query.device == keys.device == values.device == offsets.device:
        return (
            f"query, keys, values and offsets must be on one device, got {query.device}, "
            f"{keys.device}, {values.device} and {offsets.device}"
        )
    for name, one in (("query", query), ("keys", keys), ("values", values)):
        if dim > 1 and one.stride(-1) != 1:
            return (
                f"the last dimension of {name} must be contiguous, its stride is {one.stride(-1)}"
            )
    return None


def _check_offsets(offsets: Tensor, positions: int, longest: int) -> None:
    if offsets.device.type != "cpu" or not values_can_be_read():
        return
    given = offsets.tolist()
    lengths = [after - before for before, after in pairwise(given)]
    if given[0] != 0 or given[-1] > positions or min(lengths, default=0) < 0:
        raise ValueError(f"{_OP}: offsets must rise from 0 to at most {positions}, got {given}")
    if max(lengths, default=0) > longest:
        raise ValueError(f"{_OP}: a sequence has {max(lengths)} positions, longest says {longest}")


def _reference(
    query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, longest: int, scale: float
) -> Tensor:
    positions, heads, dim = query.shape
    place = torch.arange(longest, device=query.device)
    inside = place < offsets.diff()[:, None]
    # Past a sequence's end there are zeros, whatever is in the row.
    rows = torch.where(inside, offsets[:-1, None] + place, positions)
    # On a CPU torch's attention is slower in half precision, and autocast would bring it back.
    dtype = torch.float32 if query.is_cpu and query.itemsize == 2 else query.dtype

    def apart(row: Tensor) -> Tensor:
        longer = torch.cat([row.to(dtype), row.new_zeros(1, *row.shape[1:], dtype=dtype)])
        padded = longer.index_select(0, rows.flatten()).view(*rows.shape, *row.shape[1:])
        return padded.transpose(1, 2)

    with torch.autocast(query.device.type, enabled=False):
        attended = torch.nn.functional.scaled_dot_product_attention(
            apart(query),
            apart(keys),
            apart(values),
            is_causal=True,
            scale=scale,
            enable_gqa=heads != keys.shape[1],
        )
    together = attended.transpose(1, 2).reshape(-1, heads, dim)
    # A place past an end is sent to a row of its own, past all others.
    empty = query.new_zeros(positions + 1, heads, dim, dtype=dtype)
    return empty.index_copy(0, rows.flatten(), together)[:positions].to(query.dtype)


def _results(query: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=torch.float32)


def _call(operation: Operation, *args: Any) -> Tensor:
    query, keys, values, offsets, _, scale = args
    result: Tensor = operation(query, keys, values, offsets.contiguous(), scale)[0]
    return result


def _unreadable(*args: Any) -> str | None:
    problem = _problem(*args) or takes(args[0])
    return problem or (None if args[3].is_contiguous() else "offsets must be contiguous")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)
    ctx.scale = scale


def _backward(
    operation: Operation, ctx: Any, grad: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad.shape[2] > 1 and grad.stride(2) != 1:
        grad = grad.contiguous()
    return (*operation(grad, *ctx.saved_tensors, ctx.scale), None, None)


def _gradients(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, keys, values = (one.new_empty(one.shape) for one in args[:3])
    return query, keys, values


def _no_basis(grad: Tensor, *args: Any) -> str | None:
    """Why these are not what the gradient is computed from, or None."""
    query, *_, out, logsums, _ = args
    for name, one in (("the gradient", grad), ("the result", out)):
        if one.shape != query.shape or one.dtype != query.dtype or one.device != query.device:
            return f"{name} must be as the query, {shown(query)}, got {shown(one)}"
    if logsums.shape != query.shape[:2] or logsums.dtype != torch.float32:
        return f"logsums must be {tuple(query.shape[:2])} float32, got {shown(logsums)}"
    if not out.is_contiguous() or not logsums.is_contiguous():
        return "result and logsums must be contiguous"
    if query.shape[2] > 1 and grad.stride(2) != 1:
        return "the last dimension of the gradient must be contiguous"
    return _unreadable(*args[:4])


_INPUTS = "Tensor query, Tensor keys, Tensor values, Tensor offsets"
# The result, and the logarithms of the softmax's denominators, [N, H] float32.
OPERATION = TorchOp(
    f"({_INPUTS}, float scale) -> (Tensor, Tensor)",
    _results,
    _unreadable,
    _call,
    _keep,
    _backward,
    TorchOp(
        f"(Tensor grad, {_INPUTS}, Tensor out, Tensor logsums, float scale)"
        " -> (Tensor, Tensor, Tensor)",
        _gradients,
        _no_basis,
    ),
)


def _probe(device: torch.device) -> tuple[object, ...]:
    rows = torch.zeros(3, 2, 16, device=device)
    return rows, rows, rows, torch.tensor([0, 2, 3], device=device), 2, 0.25


registry.define(_OP, _reference, _probe)
