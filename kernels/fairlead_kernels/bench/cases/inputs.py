"""Seeded inputs that several workloads share."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels.bench.workload import Shape

__all__ = ["lengths", "normal", "prefix_mask", "refill", "uniform"]


def normal(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draws from N(0, 1)."""
    return torch.randn(*shape, generator=generator, device=generator.device).to(dtype)


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draws from [0, 1), float64."""
    return torch.rand(*shape, generator=generator, device=generator.device, dtype=torch.float64)


def lengths(rows: int, longest: int, generator: torch.Generator) -> Tensor:
    """`[rows]` int64, uniform in 1..longest."""
    return torch.randint(1, longest + 1, (rows,), generator=generator, device=generator.device)


def prefix_mask(shape: Shape, generator: torch.Generator) -> Tensor:
    """Responses of lengths uniform in 1..width, `[B, width]`: True first in each row."""
    rows, width = shape
    ends = lengths(rows, width, generator)
    return torch.arange(width, device=generator.device) < ends.unsqueeze(1)


def refill(x: Tensor, mask: Tensor, value: float = float("nan")) -> Tensor:
    """`x` with another value where the mask is False."""
    return x.masked_fill(~mask, value)
