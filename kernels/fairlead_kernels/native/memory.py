"""Memory for large results on the CPU, and for the last one of them, again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead_kernels.native import loaded

__all__ = ["drop_spare", "empty"]

# Smaller ones come from the C library, which keeps such memory itself: a huge page has 2 MiB.
_FROM = 8 << 20


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor that is not filled in.

    A large one lies in huge pages. When it is freed they are kept for the next one of about its
    size, at most one tensor's at a time; the system may take them back whenever it needs memory.
    """
    pages = getattr(loaded(), "Pages", None)
    count = math.prod(shape)
    if pages is None or count * dtype.itemsize < _FROM or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    # The tensor holds the pages, and they go back when its memory is freed.
    memory = pages(count * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def drop_spare() -> None:
    """Gives the memory that is kept back to the system now."""
    drop = getattr(loaded(), "drop_spare_pages", None)
    if drop is not None:
        drop()
