"""`decode_attention` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.decode_attention import OPERATION
from fairlead_kernels.native.layout import FLOAT_TYPES

__all__: list[str] = []

_OP = "decode_attention"


def _supports(
    device: str, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> str | None:
    # The public function has checked the rest; the torch operation does again.
    return native.refuse(device, query, keys, values)


def _launch(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    if query.device.type != "cpu":
        raise ValueError(f"{_OP}: it runs on cpu tensors, these are on {query.device}")
    plain = query.float()
    out = torch.empty(query.shape, dtype=torch.float32)
    native.call(
        _OP,
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


native.register(_OP, "cpu", OPERATION.define(_OP, _launch), _supports)
