"""`whiten` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.whiten import OPERATION

__all__ = ["PART", "parts"]

PART = 4096
"""Positions whose moments are taken on their own: kMomentsBlock of csrc/include/fairlead."""

_MOMENTS = 3


def parts(x: Tensor, count: int) -> Tensor:
    """Workspace for the moments of `count` parts."""
    return torch.empty(count, _MOMENTS, dtype=torch.float64, device=x.device)


def _supports(device: str, x: Tensor, *_others: object) -> str | None:
    return native.refuse(device, x)


def _launch(x: Tensor, mask: Tensor, shift_mean: bool, eps: float) -> Tensor:
    result = torch.empty_like(x)
    workspace = parts(x, -(-x.numel() // PART))
    native.call("whiten", x, mask, result, workspace, x.numel(), shift_mean, eps)
    return result


_whiten = OPERATION.define("whiten", _launch)
for _device in ("cpu", "cuda"):
    native.register("whiten", _device, _whiten, _supports)
