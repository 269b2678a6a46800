"""Attention of one query a row against a preallocated key and value cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels._checks import FLOATS, finite, shown, tensors, values_can_be_read
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry
from fairlead_kernels.triton import INTERPRETED, launcher, register, runs_on

__all__ = ["APPENDING", "OPERATION", "decode_attention"]

_OP = "decode_attention"


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Attention of one query a row over the first `lengths[b]` positions of its cache.

    `out[b, h] = sum_s softmax_s(scale query[b, h] . keys[b, k, s]) values[b, k, s]`, s below
    `lengths[b]`, k = h // (H / Hkv): multi-head, grouped-query and multi-query attention (Vaswani
    et al. 2017, arXiv 1706.03762, equation 1; Ainslie et al. 2023, arXiv 2305.13245).

    Positions past the length are without influence, NaN included (fidelity item 33). A row of
    length 0 gives zeros. All arithmetic is float32; only the result is rounded to the query's
    dtype. With `cpp` and `triton` a result depends on its own row alone, bit for bit: not on the
    other rows, not on S, not on the layout, not on the number of threads.

    A NaN in a query, or in a key that counts, makes the whole of that head's output NaN, and so
    does a score of +inf; a NaN in a value that counts makes that component NaN, and an inf makes it
    inf or NaN.

    The cache may be a view of a larger one, in any layout whose last dimension is contiguous; the
    query likewise. There is no gradient.

    Args:
        query: `[B, H, D]`, float32, bfloat16 or float16.
        keys: `[B, Hkv, S, D]`, of one of these dtypes; H is a multiple of Hkv.
        values: `[B, Hkv, S, D]`, of the keys' dtype.
        lengths: `[B]`, int64, within 0..S. A length outside is an error on the CPU; on a GPU, where
            looking would mean to wait for it, it is taken for the nearest within.
        scale: What a score is multiplied by; None for 1 / sqrt(D).
        impl: An implementation's name, or `auto`.

    Returns:
        `[B, H, D]`, contiguous, in the query's dtype.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype, stride or length that is not the above, a scale that is not
            finite, or an input that requires a gradient while gradients are recorded.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors(_OP, query=query, keys=keys, values=values, lengths=lengths)
    _check(query, keys, values, lengths)
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else scale
    finite(_OP, scale=scale)
    result: Tensor = registry.call(_OP, impl, query, keys, values, lengths, scale)
    return result


def _check(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
    problem = _problem(query, keys, values, lengths)
    if problem is not None:
        raise ValueError(f"{_OP}: {problem}")
    for name, one in (("query", query), ("keys", keys), ("values", values)):
        if one.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{_OP}: {name} requires a gradient, and there is none. Call it under "
                "torch.no_grad(), or detach it."
            )


def _problem(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, *_others: object
) -> str | None:
    """Why these tensors are not what the operation takes, or None."""
    if query.dim() != 3 or query.dtype not in FLOATS or query.shape[2] == 0:
        return f"query must be [B, H, D], float32, bfloat16 or float16, got {shown(query)}"
    batch, heads, dim = query.shape
    if keys.dim() != 4 or keys.dtype not in FLOATS or keys.shape[::3] != (batch, dim):
        expected = f"[{batch}, Hkv, S, {dim}], float32, bfloat16 or float16"
        return f"keys must be {expected}, got {shown(keys)}"
    if values.shape != keys.shape or values.dtype != keys.dtype:
        return f"values must be {tuple(keys.shape)} {keys.dtype}, got {shown(values)}"
    if keys.shape[1] == 0 or heads % keys.shape[1]:
        return f"{heads} query heads are no multiple of the keys' heads, got {shown(keys)}"
    if lengths.shape != (batch,) or lengths.dtype != torch.int64:
        return f"lengths must be [{batch}] int64, got {shown(lengths)}"
    if not query.device == keys.device == values.device == lengths.device:
        return (
            f"query, keys, values and lengths must be on one device, got {query.device}, "
            f"{keys.device}, {values.device} and {lengths.device}"
        )
    for name, one in (("query", query), ("keys", keys), ("values", values)):
        if dim > 1 and one.stride(-1) != 1:
            return (
                f"the last dimension of {name} must be contiguous, its stride is "
                f"{one.stride(-1)}. Keep the cache in a layout where it is."
            )
    return None


def check_lengths(lengths: Tensor, positions: int) -> None:
    """Raises ValueError for a length outside 0..positions, on the CPU."""
    if lengths.device.type != "cpu" or lengths.numel() == 0 or not values_can_be_read():
        return
    least, most = int(lengths.min()), int(lengths.max())
    if least < 0 or most > positions:
        wrong = least if least < 0 else most
        raise ValueError(f"{_OP}: lengths must be within 0..{positions}, one is {wrong}")


def _reference(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    check_lengths(lengths, keys.shape[2])
    batch, heads, dim = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    counts = (torch.arange(keys.shape[2], device=keys.device) < lengths[:, None])[:, None, :]
    # [B, Hkv, group, S]: the heads of a group share keys and values, which are not repeated.
    group = heads // keys.shape[1]
    grouped = query.to(dtype).reshape(batch, keys.shape[1], group, dim) * scale
    scores = grouped @ keys.to(dtype).transpose(2, 3)
    scores = scores.masked_fill(~counts[:, :, None], -math.inf)
    # 0 * NaN is NaN: what does not count leaves the product, not just the weights.
    masked = values.to(dtype).masked_fill(~counts[..., None], 0.0)
    out = scores.softmax(-1) @ masked
    empty = (lengths <= 0).view(-1, 1, 1)
    return out.reshape(batch, heads, dim).masked_fill(empty, 0.0).to(query.dtype)


def _results(query: Tensor, *_others: object) -> Tensor:
    return query.new_empty(query.shape)


def _call(
    operation: Callable[..., Tensor],
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    return operation(query, keys, values, lengths.contiguous(), scale)


def _unreadable(*args: Any) -> str | None:
    contiguous = args[3].is_contiguous()
    return _problem(*args) or (None if contiguous else "lengths must be contiguous")


def _cannot_append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
) -> str | None:
    problem = _unreadable(query, keys, values, lengths, scale)
    if problem is not None:
        return problem
    given = (query, key, value, keys, values)
    if torch.is_grad_enabled() and any(one.requires_grad for one in given):
        return "there is no gradient, and an input requires one"
    expected = (keys.shape[0], keys.shape[1], keys.shape[3])
    for name, one in (("key", key), ("value", value)):
        if one.shape != expected or one.dtype not in FLOATS or one.device != keys.device:
            return f"{name} must be {expected} on {keys.device}, got {shown(one)}"
        if expected[2] > 1 and one.stride(-1) != 1:
            return f"the last dimension of {name} must be contiguous"
    for name, one in (("keys", keys), ("values", values)):
        if any(size > 1 and not step for size, step in zip(one.shape, one.stride(), strict=True)):
            return f"{name} must have a place for each element, and are expanded"
    return None


OPERATION = TorchOp(
    "(Tensor query, Tensor keys, Tensor values, Tensor lengths, float scale) -> Tensor",
    _results,
    _unreadable,
    _call,
)

APPENDING = TorchOp(
    "(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, Tensor lengths, "
    "float scale) -> Tensor",
    _results,
    _cannot_append,
)
"""`decode_attention` after `keys[b, :, lengths[b] - 1] = key[b]`, and likewise the values.

It is a decoding step's attention as one operation, `torch.ops.fairlead_kernels.append_attention`,
in native code alone and no `register_kernels` operation: it writes to what it is given.
"""


def _probe(device: torch.device) -> tuple[object, ...]:
    cache = torch.zeros(2, 1, 4, 16, device=device)
    lengths = torch.ones(2, dtype=torch.int64, device=device)
    return torch.zeros(2, 2, 16, device=device), cache, cache, lengths, 0.25


registry.define(_OP, _reference, _probe)


_WIDEST_FLOAT32 = 128


LARGEST_GROUP = 8 << 10
"""Bytes of the queries that share keys, to Triton: a program takes them in at once, with sums of as
many numbers in float32."""


def _triton_supports(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> str | None:
    if query.dtype != keys.dtype:
        return f"it takes a query of the cache's dtype {keys.dtype}, this is {query.dtype}"
    grouped = query.shape[1] > keys.shape[1]
    if query.dtype == torch.float32 and grouped and query.shape[2] > _WIDEST_FLOAT32:
        return (
            f"float32 heads of more than {_WIDEST_FLOAT32} numbers that share keys do not fit into "
            "a GPU's shared memory"
        )
    group = query.shape[1] // keys.shape[1]
    if grouped and group * query.shape[2] * query.element_size() > LARGEST_GROUP:
        return (
            f"{group} heads of {query.shape[2]} numbers that share keys do not fit into a GPU's "
            "shared memory"
        )
    if INTERPRETED and query.dtype == torch.bfloat16:
        return "triton's interpreter neither multiplies matrices of bfloat16 nor rounds to it"
    return runs_on(query.device)


_TRITON = OPERATION.define("triton_decode_attention", launcher("decode_attention:decode_attention"))
register(_OP, _TRITON, _triton_supports)
