"""Every Triton kernel compiles for GPUs that need not be here; what runs is in tests/gpu."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairlead_kernels.triton as kernels

pytest.importorskip("triton", reason="triton is not installed")
SCRIPT = Path(__file__).with_name("compile_triton.py")

# A block has so much on GPUs of compute capability 8.6 and 8.9, the least of those from 8.0 on.
SHARED = 99 << 10
# sample keeps its pivots in registers; a few words may go to the stack, no tile of logits may.
STACK = 32


def launched() -> set[str]:
    """The kernels: what `triton.jit` decorates and has a name that says so."""
    found = set()
    for module in pkgutil.iter_modules(kernels.__path__):
        loaded = importlib.import_module(f"fairlead_kernels.triton.{module.name}")
        found |= {
            f"{module.name}.{name}"
            for name, one in vars(loaded).items()
            if hasattr(one, "fn")
            and one.fn.__module__ == loaded.__name__
            and (name.endswith("_kernel") or name in ("_attend_split", "_merge"))
        }
    return found


@pytest.mark.slow
def test_every_kernel_compiles_within_what_a_gpu_has(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "90"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == launched()
    for name, variants in found.items():
        for one in variants:
            assert one["shared"] <= SHARED, (name, one)
            assert one["stack"] <= STACK, (name, one)
