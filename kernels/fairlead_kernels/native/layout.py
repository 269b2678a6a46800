"""Whether tensors' memory is what a kernel reads."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FLOAT_TYPES", "unlike"]

FLOAT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""FloatType of csrc/include/fairlead/float_type.h."""


def unlike(first: Tensor, *, mask: Tensor, **others: Tensor | None) -> str | None:
    """Why these are not contiguous tensors on one device, or None.

    Args:
        first: float32; the others have its shape.
        mask: boolean.
        **others: float32; None for one that was left out.
    """
    named = {"the first tensor": first, "mask": mask, **others}
    for name, one in named.items():
        if one is None:
            continue
        dtype = torch.bool if name == "mask" else torch.float32
        if one.dtype != dtype or one.shape != first.shape or one.device != first.device:
            return (
                f"{name} must be {dtype} {tuple(first.shape)} on {first.device}, "
                f"got {one.dtype} {tuple(one.shape)} on {one.device}"
            )
        if not one.is_contiguous():
            return f"{name} must be contiguous"
    return None
