"""`philox_uniform` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native

__all__: list[str] = []


def _check(iteration: int, sequence: Tensor, position: Tensor) -> str | None:
    """Why these are not what the kernel takes, or None."""
    if not 0 <= iteration < 1 << 32:
        return f"iteration must be in [0, 2^32), got {iteration}"
    for name, tensor in (("sequence", sequence), ("position", position)):
        if tensor.dim() != 1 or tensor.dtype != torch.int64 or not tensor.is_contiguous():
            return f"{name} must be contiguous int64 [B], got {tuple(tensor.shape)} {tensor.dtype}"
    if position.shape != sequence.shape or position.device != sequence.device:
        return "sequence and position must have one length and be on one device"
    return None


def _supports(
    device: str, seed: int, iteration: int, sequence: Tensor, position: Tensor
) -> str | None:
    return native.refuse(device, sequence, position) or _check(iteration, sequence, position)


def _launch(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    problem = _check(iteration, sequence, position)
    if problem is not None:
        raise ValueError(f"philox_uniform: {problem}")
    uniform = torch.empty_like(sequence, dtype=torch.float64)
    # The first tensor says where; the kernel's arguments begin with numbers, which pass it by.
    native.call("philox_uniform", seed, iteration, sequence, position, uniform, len(sequence))
    return uniform


def _fake(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(sequence, dtype=torch.float64)


native.define(
    "philox_uniform(int seed, int iteration, Tensor sequence, Tensor position) -> Tensor",
    _launch,
    _fake,
)


def _philox_uniform(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    # A torch operation takes an int64: the seed with the same bits.
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    uniform: Tensor = torch.ops.fairlead_kernels.philox_uniform(
        signed, iteration, sequence, position
    )
    return uniform


for _device in ("cpu", "cuda"):
    native.register("philox_uniform", _device, _philox_uniform, _supports)
