"""`row_linear` in native code."""

from __future__ import annotations

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.row_linear import OPERATION

__all__: list[str] = []

_OP = "row_linear"


def _supports(device: str, row: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return native.refuse(device, row, weight, bias) or OPERATION.check(row, weight, bias)


def _launch(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape
    # A dimension of size 1 may have any stride.
    inputs_first = weight.stride(1) != 1 and inputs > 1
    out = row.new_empty((1, outputs))
    stride = weight.stride(1) if inputs_first else weight.stride(0)
    row = row.contiguous()
    bias = None if bias is None else bias.contiguous()
    native.call(_OP, row, weight, bias, out, inputs, outputs, stride, inputs_first)
    return out


native.register(_OP, "cpu", OPERATION.define(_OP, _launch), _supports)
