"""Where the time and the memory of a step go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Phases:
    """Seconds and peak memory of named parts of a step.

    On CUDA a phase ends when the device has done its work, and memory is what torch allocated; on
    a CPU it is the process's, where the system lets its peak be reset (Linux), else absent.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what is done within; a name used twice adds up."""
        _forget_peak(self.device)
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        peak = _peak(self.device)
        if peak is not None:
            self.peak_bytes[name] = max(peak, self.peak_bytes.get(name, 0))

    def run(
        self, name: str, call: Callable[Given, Result], *args: Given.args, **more: Given.kwargs
    ) -> Result:
        """Measure a call, and return what it returns."""
        with self(name):
            return call(*args, **more)

    def metrics(self) -> dict[str, float]:
        """Return ``time/NAME`` in seconds and ``memory/NAME`` in GiB."""
        return {
            **{f"time/{name}": seconds for name, seconds in self.seconds.items()},
            **{f"memory/{name}": peak / 2**30 for name, peak in self.peak_bytes.items()},
        }


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Where that is not allowed `_peak` is that of the whole run, which is still an upper bound.
    with suppress(OSError):
        _CLEAR.write_text(_CLEAR_PEAK)


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return found[0] * 1024 if found else None
