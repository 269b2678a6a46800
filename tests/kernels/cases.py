"""Inputs that several kernel tests share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

ODD_ROWS = (1, 3, 127, 257)


def prefix_mask(lengths: list[int] | Tensor, width: int) -> Tensor:
    return torch.arange(width) < torch.as_tensor(lengths).view(-1, 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def ragged(draw: st.DrawFn, max_rows: int = 40, max_width: int = 40) -> tuple[Tensor, int]:
    """A prefix mask, rows without a response included, and a seed."""
    width = draw(st.integers(1, max_width))
    lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=max_rows))
    return prefix_mask(lengths, width), draw(st.integers(0, 2**16))
