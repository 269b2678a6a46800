"""What the machine can do, measured, and what it is."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fairlead_kernels.bench.timing import measure
from fairlead_kernels.bench.workload import Cost
from fairlead_kernels.native import native_status

__all__ = ["Machine", "dtype_name", "provenance"]

_PACKAGES = ("fairlead", "torch", "triton", "xformers", "flash-attn", "liger-kernel", "numpy")


@dataclass
class Machine:
    """One device with a number of threads, and its limits as measured here.

    Attributes:
        device: Where.
        threads: Of the CPU.
        copy: Bytes a second, read and written, of a copy far larger than the caches.
        gemm: FLOP a second of a square matrix product, by dtype; the best of a few.
    """

    device: torch.device
    threads: int
    copy: float = 0.0
    gemm: dict[torch.dtype, float] = field(default_factory=dict)

    def measure(self, dtype: torch.dtype, products: bool) -> None:
        """Measures what is not known yet; matrix products only where they are asked for."""
        cuda = self.device.type == "cuda"
        if not self.copy:
            source = torch.ones(1 << (30 if cuda else 27), dtype=torch.uint8, device=self.device)
            target = torch.empty_like(source)
            self.copy = 2 * source.numel() / self._best(lambda: target.copy_(source))
        if products and dtype not in self.gemm:
            size = 8192 if cuda else 1024
            a, b = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
            self.gemm[dtype] = 2 * size**3 / self._best(lambda: a @ b)

    def floor(self, cost: Cost, dtype: torch.dtype) -> float:
        """Seconds that so much traffic, and matrix products, take at the measured limits."""
        products = cost.flops / self.gemm[dtype] if cost.products else 0.0
        return max(cost.bytes / self.copy, products)

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return {
            "device": self.device.type,
            "threads": self.threads if self.device.type == "cpu" else None,
            "copy_gb_per_s": self.copy / 1e9,
            "gemm_gflop_per_s": {
                dtype_name(dtype): rate / 1e9 for dtype, rate in self.gemm.items()
            },
        }

    def _best(self, call: Callable[[], object]) -> float:
        return min(measure({"": call}, self.device, 0.5)[""].seconds)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype without `torch.` before it."""
    return str(dtype).removeprefix("torch.")


def provenance(command: str) -> dict[str, Any]:
    """What the numbers were measured with and on.

    Args:
        command: The command line that asked for them.
    """
    status = native_status()
    cuda = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cpus": len(_affinity()),
        "gpus": gpus,
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "native": {
            "parts": list(status.parts),
            "compiler": status.compiler,
            "instruction_set": status.instruction_set,
            "cuda_architectures": status.cuda_architectures,
        },
        "load": _load(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # The wheel's name says nothing of the build (+cpu, +cu130).
    return found | {"torch": str(torch.__version__)}


def _affinity() -> range | set[int]:
    sched = getattr(os, "sched_getaffinity", None)
    return sched(0) if sched else range(os.cpu_count() or 1)


def _load() -> float | None:
    """How busy the machine was a minute before, in cores."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside of a checkout."""
    here = Path(__file__).resolve()
    git = ("git", "-C", str(here.parent))
    # An environment may lie within a checkout of something else, which does not hold this file.
    ours = _output(*git, "ls-files", "--error-unmatch", here.name)
    commit = _output(*git, "rev-parse", "HEAD") if ours else None
    if commit is None:
        return None
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if changed else commit


def _output(program: str, *arguments: str) -> str | None:
    """The first line a program prints, or None where it cannot be run."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), "").strip()
