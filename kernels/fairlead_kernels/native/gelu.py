"""`gelu` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._checks import takes
from fairlead_kernels.gelu import OPERATION
from fairlead_kernels.native.layout import FLOAT_TYPES

__all__: list[str] = []

_OP = "gelu"


def _supports(device: str, x: Tensor) -> str | None:
    return takes(x) or native.refuse(device, x, gradient=True)


def _launch(x: Tensor, grad: Tensor | None = None) -> Tensor:
    if x.device.type != "cpu":
        raise ValueError(f"{_OP}: it runs on cpu tensors, this is on {x.device}")
    out = torch.empty(x.shape, dtype=x.dtype)
    native.call(_OP, x, grad, out, x.numel(), FLOAT_TYPES[x.dtype])
    return out


native.register(_OP, "cpu", OPERATION.define(_OP, _launch, _launch), _supports)
