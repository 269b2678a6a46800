"""`packed_linear` in native code."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.packed_linear import OPERATION

__all__: list[str] = []

_OP = "packed_linear"


def _supports(
    device: str, rows: Tensor, panels: Tensor, outputs: int, bias: Tensor | None, *more: Any
) -> str | None:
    refusal = native.refuse(device, rows, panels, bias)
    return refusal or OPERATION.check(rows, panels, outputs, bias, *more)


def _launch(rows: Tensor, panels: Tensor, outputs: int, bias: Tensor | None, gelu: bool) -> Tensor:
    count, inputs = rows.shape
    out = rows.new_empty((count, outputs))
    # A dimension of size 1 may have any stride.
    if inputs > 1 and rows.stride(1) != 1:
        rows = rows.contiguous()
    bias = None if bias is None else bias.contiguous()
    counts = (native.Rows(count), inputs, outputs, rows.stride(0))
    native.call(_OP, rows, panels, bias, out, *counts, gelu)
    return out


native.register(_OP, "cpu", OPERATION.define(_OP, _launch), _supports)
