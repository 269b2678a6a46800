"""`ragged_attention` in native code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._checks import takes
from fairlead_kernels.native.layout import FLOAT_TYPES
from fairlead_kernels.ragged_attention import OPERATION

__all__: list[str] = []

_OP = "ragged_attention"


def _supports(device: str, query: Tensor, keys: Tensor, values: Tensor, *_: Any) -> str | None:
    # The public function has checked the rest; the torch operation does again.
    return takes(query) or native.refuse(device, query, keys, values, gradient=True)


def _described(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor) -> tuple[Any, ...]:
    if query.device.type != "cpu":
        raise ValueError(f"{_OP}: it runs on cpu tensors, these are on {query.device}")
    strides = [stride for one in (query, keys, values) for stride in one.stride()[:2]]
    positions, heads, dim = query.shape
    return (len(offsets) - 1, positions, heads, keys.shape[1], dim), tuple(strides)


def _forward(
    query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    inputs = query, keys, values, offsets
    out = torch.empty(query.shape, dtype=query.dtype)
    logsums = torch.zeros(query.shape[:2], dtype=torch.float32)
    dtype = FLOAT_TYPES[query.dtype]
    native.call(f"{_OP}_forward", *inputs, out, logsums, *_described(*inputs), scale, dtype)
    return out, logsums


def _backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, out, logsums, scale = args
    query, keys, values = (torch.empty(one.shape, dtype=one.dtype) for one in inputs[:3])
    native.call(
        f"{_OP}_backward",
        *(*inputs, out, logsums, grad, query, keys, values),
        *_described(*inputs),
        *(grad.stride()[:2], scale, FLOAT_TYPES[grad.dtype]),
    )
    return query, keys, values


native.register(_OP, "cpu", OPERATION.define(_OP, _forward, _backward), _supports)
