"""`add_layer_norm` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.add_layer_norm import OPERATION

__all__: list[str] = []

_OP = "add_layer_norm"


def _supports(
    device: str, x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> str | None:
    if x.dtype != torch.float32:
        return f"it takes float32, not {x.dtype}"
    return native.refuse(device, x, other, weight, bias)


def _launch(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    results: tuple[Tensor, Tensor] = OPERATION.results(x)
    width = x.shape[-1]
    rows = native.Rows(x.numel() // width)
    native.call(_OP, x, other, weight, bias, *results, rows, width, eps)
    return results


native.register(_OP, "cpu", OPERATION.define(_OP, _launch), _supports)
