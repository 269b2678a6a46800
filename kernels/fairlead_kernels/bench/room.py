"""Whether there is memory for a case, told before any of it is taken.

On Linux a tensor that does not fit is often granted, and the process ended where it is written to:
so it is not enough to try. The inputs, the float64 results and plain torch are run on tensors
without memory instead, and what they would hold is added up. What a kernel takes for itself is
not in it.
"""

from __future__ import annotations

import gc
import math
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fairlead_kernels.bench.judge import exact_outputs
from fairlead_kernels.bench.workload import Shape, Workload

__all__ = ["Need", "estimate", "free_bytes", "human", "ran_out"]

# More than any workload holds for each of its numbers: where that fits, nothing need be counted.
_AMPLE = 256
# Torch counts bytes in 64 bits.
_COUNTABLE = 1 << 56
# Steps of a loop in Python are alike: so many are counted.
_STEPS = 32
_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """About how many bytes a case takes.

    Attributes:
        gate: Inputs and float64 results, with plain torch's beside them: what has to fit.
        eager: Inputs, and plain torch on all of them.
    """

    gate: float
    eager: float


class _Held(TorchDispatchMode):
    """Adds up the memory of what operations return, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in _pytree.tree_leaves(result):
            if isinstance(one, Tensor):
                self._take(one.untyped_storage())
        return result

    def _take(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)


def estimate(
    workload: Workload, shape: Shape, dtype: torch.dtype, device: torch.device, free: int
) -> Need | None:
    """About what a case takes, or None where it is little beside what is free."""
    if _AMPLE * math.prod(shape) < free:
        return None
    if math.prod(shape) > _COUNTABLE:
        return Need(math.inf, math.inf)
    times = 1.0
    if workload.loop:
        at = workload.axes.index(workload.loop)
        steps = min(shape[at], _STEPS)
        times = shape[at] / steps
        shape = (*shape[:at], steps, *shape[at + 1 :])
    need = _count(workload, shape, dtype, device, free / times)
    return Need(need.gate * times, need.eager * times)


def _count(
    workload: Workload, shape: Shape, dtype: torch.dtype, device: torch.device, free: float
) -> Need:
    gated = workload.gated(shape) if workload.gated else shape
    with FakeTensorMode(), _Held() as held:
        inputs = workload.make(shape, dtype, torch.Generator(device))
        if held.peak > free:
            return Need(held.peak, held.peak)
        judged = inputs if gated == shape else workload.make(gated, dtype, torch.Generator(device))
        given = [*judged.kwargs.values(), *judged.upstream.values()]
        exact = exact_outputs(workload, judged)
        results = workload.call(workload.plain or workload.eager, judged)
        kept = [one.detach().clone() for one in given if isinstance(one, Tensor)]
        gate = held.peak
        del judged, given, exact, results, kept
        gc.collect()
        held.peak = held.now
        workload.call(workload.eager, inputs)
        return Need(gate, held.peak)


def free_bytes(device: torch.device) -> int | None:
    """The memory that can be had on a device, or None where that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY.read_text().splitlines()
        line = next(one for one in lines if one.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((_GROUP / "memory.max").read_text())
        found.append(max(limit - int((_GROUP / "memory.current").read_text()), 0))
    return min(found, default=None)


def human(count: float) -> str:
    """Bytes, for people."""
    for unit in ("MiB", "GiB", "TiB", "PiB"):
        count /= 1024 if unit != "MiB" else 1 << 20
        if count < 1024:
            return f"about {count:.3g} {unit}"
    return "more than 1,024 PiB"


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on the CPU or on CUDA."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
