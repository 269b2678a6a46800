"""Inputs that several kernel tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from fairlead_kernels import native, native_status
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
    not INTERPRETED, reason="triton compiles here: tests/gpu has what runs on a device"
)
CPU_IMPLS = ["reference", pytest.param("cpp", marks=needs_native)]
# On the CPU triton is interpreted, and slow: small inputs, and none drawn by the hundred.
IMPLS = [*CPU_IMPLS, pytest.param("triton", marks=needs_interpreter)]


def run_alone(script: str, *args: str) -> None:
    """Runs a script that may bring its process down."""
    result = subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{result.returncode}: {result.stderr}"


class OneInstructionSet:
    """The native module with its CPU kernels bound to one instruction set."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module = module
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not name.endswith("_cpu"):
            return found
        return partial(found, instruction_set=self._name)


@pytest.fixture(params=["avx512", "avx2", "generic"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once for each instruction set that this processor has."""
    module, reason = native._load()
    if module is None:
        pytest.skip(reason)
    address = torch.zeros(1).data_ptr()
    try:
        module.whiten_cpu(address, address, address, address, 0, True, 0.0, 1, request.param)
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(native, "_load", lambda: (OneInstructionSet(module, request.param), ""))
    return request.param
