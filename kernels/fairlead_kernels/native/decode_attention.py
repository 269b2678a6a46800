"""`decode_attention` in native code, and the same after storing new keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.decode_attention import APPENDING, OPERATION
from fairlead_kernels.native.layout import FLOAT_TYPES

__all__: list[str] = []

_OP = "decode_attention"
_NO_STRIDES = (0, 0)


def _supports(
    device: str, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> str | None:
    # The public function has checked the rest; the torch operation does again.
    return native.refuse(device, query, keys, values)


def _run(
    query: Tensor,
    new: tuple[Tensor, Tensor] | None,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    if query.device.type != "cpu":
        raise ValueError(f"{_OP}: it runs on cpu tensors, these are on {query.device}")
    plain = query.float()
    out = torch.empty(query.shape, dtype=torch.float32)
    key, value = (None, None) if new is None else (one.float() for one in new)
    native.call(
        _OP,
        plain,
        keys,
        values,
        key,
        value,
        lengths,
        out,
        (native.Rows(query.shape[0]), query.shape[1], *keys.shape[1:]),
        (
            *plain.stride()[:2],
            *keys.stride()[:3],
            *values.stride()[:3],
            *(_NO_STRIDES if key is None else key.stride()[:2]),
            *(_NO_STRIDES if value is None else value.stride()[:2]),
        ),
        scale,
        FLOAT_TYPES[keys.dtype],
    )
    return out.to(query.dtype)


def _launch(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    return _run(query, None, keys, values, lengths, scale)


def _launch_append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    return _run(query, (key, value), keys, values, lengths, scale)


native.register(_OP, "cpu", OPERATION.define(_OP, _launch), _supports)
APPENDING.define("append_attention", _launch_append)
