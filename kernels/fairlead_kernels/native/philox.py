"""`philox_uniform` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.philox import OPERATION

__all__: list[str] = []


def _supports(
    device: str, seed: int, iteration: int, sequence: Tensor, position: Tensor
) -> str | None:
    problem = OPERATION.check(seed, iteration, sequence, position)
    return native.refuse(device, sequence, position) or problem


def _launch(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    uniform = torch.empty_like(sequence, dtype=torch.float64)
    # The first tensor says where; the kernel's arguments begin with numbers, which pass it by.
    native.call("philox_uniform", seed, iteration, sequence, position, uniform, len(sequence))
    return uniform


_philox_uniform = OPERATION.define("philox_uniform", _launch)
for _device in ("cpu", "cuda"):
    native.register("philox_uniform", _device, _philox_uniform, _supports)
