"""Checks that the public functions share: a wrong shape is an error here, not a wrong number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fairlead_kernels import native

SMALLEST = 2.0**-149
"""The smallest float32 above 0."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels compute with; half precision as float32."""

__all__ = [
    "FLOATS",
    "as_floats",
    "discount",
    "finite",
    "prefix_mask",
    "same_shape",
    "shape_error",
    "shown",
    "takes",
    "temperature_at_least",
    "tensors",
    "values_can_be_read",
]


def shown(tensor: Tensor) -> str:
    """What an error says of a tensor."""
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def takes(x: Tensor) -> str | None:
    """Why the kernels in native code and in Triton do not take numbers of this dtype, or None."""
    if x.dtype in FLOATS:
        return None
    return f"it takes float32, bfloat16 and float16, not {x.dtype}"


def tensors(op: str, optional: Mapping[str, object] | None = None, /, **needed: object) -> None:
    """Raises TypeError for what is no tensor.

    Args:
        op: Who asks.
        optional: By name, what may be None as well.
        **needed: What must be there.
    """
    for name, one in needed.items():
        if not isinstance(one, Tensor):
            raise _no_tensor(op, name, one)
    for name, one in (optional or {}).items():
        if one is not None and not isinstance(one, Tensor):
            raise _no_tensor(op, name, one)


def _no_tensor(op: str, name: str, given: object) -> TypeError:
    return TypeError(
        f"{op}: {name} must be a torch.Tensor, got {type(given).__name__}; "
        "torch.as_tensor makes one of numbers, lists and arrays"
    )


def shape_error(op: str, what: str, tensor: Tensor) -> ValueError:
    """The error for a tensor that is not what `op` takes."""
    return ValueError(f"{op}: {what}, got {shown(tensor)}")


def same_shape(op: str, first: Tensor, *, mask: Tensor | None = None, **others: Tensor) -> None:
    """Raises ValueError unless all have one shape and device and the mask is boolean."""
    if mask is not None:
        if mask.dtype != torch.bool:
            raise shape_error(op, "the mask must be boolean", mask)
        others = {**others, "mask": mask}
    for name, other in others.items():
        if other.shape != first.shape or other.device != first.device:
            expected = f"{tuple(first.shape)} on {first.device}"
            raise shape_error(op, f"{name} must be {expected}", other)


def as_floats(tensor: Tensor) -> Tensor:
    """The tensor as kernels read it: float32 and contiguous."""
    return tensor.float().contiguous()


def values_can_be_read() -> bool:
    """Whether a check may look at values of tensors: not while torch.compile traces it.

    What is traced has no values yet: a branch on one would end the graph there. So the graph has
    no such check. Given what the function does not take, its results mean nothing: a mask with
    holes is read differently by every implementation, a `u` outside [0, 1) draws any token, of a
    sequence or position the low bits are used, and a length is taken for the nearest one within
    the cache. No kernel reads or writes outside its tensors for it.
    """
    return not torch.compiler.is_compiling()


def prefix_mask(op: str, mask: Tensor) -> None:
    """Raises ValueError unless a boolean `[B, T]` mask is a prefix of each row."""
    if values_can_be_read() and not _is_prefix(mask):
        raise ValueError(f"{op}: response_mask must be a contiguous prefix of each row, True first")


def _is_prefix(mask: Tensor) -> bool:
    module = native.loaded()
    if module is not None and mask.device.type == "cpu" and mask.is_contiguous():
        prefix: bool = module.is_prefix_mask(mask.data_ptr(), *mask.shape)
        return prefix
    rises = mask[:, 1:] > mask[:, :-1]
    # max of bytes: on the CPU, several times faster than any() of booleans.
    return rises.numel() == 0 or not bool(rises.view(torch.uint8).max())


def finite(op: str, **numbers: float) -> None:
    """Raises ValueError for a number that is NaN or infinite."""
    for name, number in numbers.items():
        # Comparisons, since math.isfinite cannot be traced for a number that torch.compile varies.
        if not -math.inf < number < math.inf:
            raise ValueError(f"{op}: {name} must be finite, got {number}")


def discount(op: str, **numbers: float) -> None:
    """Raises ValueError for a number outside [0, 1]."""
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{op}: {name} must be in [0, 1], got {number}")


def temperature_at_least(op: str, temperature: float, *, zero_allowed: bool) -> None:
    """Raises ValueError unless the temperature is finite and positive (or zero, where allowed)."""
    finite(op, temperature=temperature)
    if temperature < 0 or (temperature == 0 and not zero_allowed):
        bound = "at least 0" if zero_allowed else "above 0"
        raise ValueError(f"{op}: temperature must be {bound}, got {temperature}")
    if 0 < temperature < SMALLEST:
        raise ValueError(
            f"{op}: a temperature of {temperature} is 0 in float32; give at least {SMALLEST:.3g}"
        )
