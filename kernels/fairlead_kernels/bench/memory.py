"""How much memory a call takes beyond its inputs, its results included.

On CUDA it is the peak of torch's allocator. On the CPU it is the peak of what torch allocates, from
the profiler's record of every allocation. That does not see what native code takes for itself;
on Linux the process's resident memory is watched as well, and stands instead where it grew by
clearly more. What stays allocated between calls (a library's packed matrices) is in neither.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch

from fairlead_kernels.native.memory import drop_spare

__all__ = ["peak_bytes"]

# Resident memory is counted in pages, in batches a thread, and grows by code that is first run.
_RESIDENT_SLACK = 8 << 20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that one call holds at a time.

    Args:
        call: What to run, twice on the CPU. It has been run before.
        device: Where it runs.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = call()
        torch.cuda.synchronize(device)
        del kept
        return int(torch.cuda.max_memory_allocated(device) - before)
    allocated = _allocated(call)
    resident = _resident(call)
    grew_more = resident is not None and resident > allocated + _RESIDENT_SLACK
    return resident if grew_more and resident is not None else allocated


def _allocated(call: Callable[[], object]) -> int:
    """The peak of torch's own allocations on the CPU."""
    # The profiler's library announces its start and end on stderr otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        kept = call()
    del kept
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    events.sort(key=lambda event: int(event.start_ns()))
    return max(accumulate((int(event.nbytes()) for event in events), initial=0))


def _resident(call: Callable[[], object]) -> int | None:
    """How far the process's resident memory rises, or None where that cannot be told."""
    try:
        with suppress(OSError, AttributeError):
            # Free memory that the C library or the native module holds would be taken again without
            # a rise.
            ctypes.CDLL(None).malloc_trim(0)
        drop_spare()
        _CLEAR.write_text("5")  # the peak starts again from what is resident now
        before = _field("VmRSS")
        call()
        return max(_field("VmHWM") - before, 0)
    except (OSError, ValueError):
        return None


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(name)
