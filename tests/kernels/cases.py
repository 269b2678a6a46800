"""Inputs that several kernel tests share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from fairlead_kernels import native_status
from fairlead_kernels.triton import INTERPRETED

ODD_ROWS = (1, 3, 127, 257)


def prefix_mask(lengths: list[int] | Tensor, width: int) -> Tensor:
    return torch.arange(width) < torch.as_tensor(lengths).view(-1, 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row_weights(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """1.5, 0.5, -0.5 and so on: the same numbers in every dtype."""
    return (1.5 - torch.arange(rows) % 3).to(dtype)


@st.composite
def ragged(draw: st.DrawFn, max_rows: int = 40, max_width: int = 40) -> tuple[Tensor, int]:
    """A prefix mask, rows without a response included, and a seed."""
    width = draw(st.integers(1, max_width))
    lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=max_rows))
    return prefix_mask(lengths, width), draw(st.integers(0, 2**16))


needs_native = pytest.mark.skipif(
    not native_status().available, reason=native_status().reason or "native module"
)
needs_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="triton is not interpreted here; tests/gpu has it on the device"
)


def logprob_impls() -> list[object]:
    """The implementations that run on the CPU, the reference first."""
    return [
        "reference",
        pytest.param("cpp", marks=needs_native),
        pytest.param("triton", marks=needs_interpreter),
    ]
