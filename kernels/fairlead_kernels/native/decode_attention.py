"""`decode_attention` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.native.layout import FLOAT_TYPES

__all__: list[str] = []


def _check(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    if query.dim() != 3 or query.dtype not in FLOAT_TYPES or query.shape[2] == 0:
        return f"query must be [B, H, D] in floating point, got {tuple(query.shape)} {query.dtype}"
    batch, heads, dim = query.shape
    if keys.dim() != 4 or keys.shape[::3] != (batch, dim) or keys.dtype not in FLOAT_TYPES:
        return f"keys must be [{batch}, Hkv, S, {dim}], got {tuple(keys.shape)} {keys.dtype}"
    if values.shape != keys.shape or values.dtype != keys.dtype:
        return f"values must be {tuple(keys.shape)} {keys.dtype}, got {tuple(values.shape)}"
    if keys.shape[1] == 0 or heads % keys.shape[1]:
        return f"{heads} query heads are no multiple of {keys.shape[1]} key heads"
    if lengths.shape != (batch,) or lengths.dtype != torch.int64 or not lengths.is_contiguous():
        return f"lengths must be contiguous int64 [{batch}]"
    if not query.device == keys.device == values.device == lengths.device:
        return "query, keys, values and lengths must be on one device"
    if dim > 1 and not query.stride(2) == keys.stride(3) == values.stride(3) == 1:
        return "the last dimension of query, keys and values must be contiguous"
    return None


def _supports(
    device: str, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> str | None:
    # The public function has checked the rest; `_launch` does again.
    return native.refuse(device, query, keys, values)


def _launch(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    problem = _check(query, keys, values, lengths)
    if problem is None and query.device.type != "cpu":
        problem = f"it runs on cpu tensors, these are on {query.device}"
    if problem is not None:
        raise ValueError(f"decode_attention: {problem}")
    plain = query.float()
    out = torch.empty(query.shape, dtype=torch.float32)
    native.call(
        "decode_attention",
        plain,
        keys,
        values,
        lengths,
        out,
        (*query.shape[:2], *keys.shape[1:]),
        (*plain.stride()[:2], *keys.stride()[:3], *values.stride()[:3]),
        scale,
        FLOAT_TYPES[keys.dtype],
    )
    return out.to(query.dtype)


def _fake(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape)


native.define(
    "decode_attention(Tensor query, Tensor keys, Tensor values, Tensor lengths, float scale)"
    " -> Tensor",
    _launch,
    _fake,
)


def _decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    out: Tensor = torch.ops.fairlead_kernels.decode_attention(
        query, keys, values, lengths.contiguous(), scale
    )
    return out


native.register("decode_attention", "cpu", _decode_attention, _supports)
