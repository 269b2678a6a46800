"""How long calls take, measured in turns: a drift of the machine hits all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

__all__ = ["Samples", "device_seconds", "measure", "quantile"]

Call = Callable[[], object]

# A sample on the CPU is of as many calls as take this long: the clock's own cost vanishes in it.
_SHORTEST_SAMPLE = 2e-4
# How long one call's turn lasts, unless a single sample takes longer.
_TURN = 1e-2
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 200
# A first call that takes longer is as good as a warm one.
_LONG = 0.5


@dataclass
class Samples:
    """Seconds a call, one number a sample.

    Attributes:
        seconds: By the CPU's clock, or by CUDA events.
    """

    seconds: list[float] = field(default_factory=list)

    def milliseconds(self, share: float) -> float:
        """A quantile; 0.5 is the median."""
        return 1e3 * quantile(self.seconds, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values lie below, between two of them by proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def measure(
    calls: Mapping[str, Call], device: torch.device, seconds: float = 1.0
) -> dict[str, Samples]:
    """Times calls in turns, warm-up first.

    On the CPU by `perf_counter`, caches as the calls before left them. On CUDA by events around
    each single call, after writing over the second-level cache.

    Args:
        calls: By name.
        device: Where they run.
        seconds: How long to measure for each call, all in all; at least three turns are taken.

    Returns:
        Samples by name.
    """
    if not calls:
        return {}
    sampler = _CudaSampler(device) if device.type == "cuda" else _CpuSampler()
    plan = {name: sampler.plan(call) for name, call in calls.items()}
    found = {name: Samples() for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        order = list(calls)
        for turn in range(_MOST_ROUNDS):
            for name in order:
                found[name].seconds += sampler.take(calls[name], *plan[name])
            # Who comes after whom changes, since each finds the caches as another left them.
            order.append(order.pop(0))
            if turn + 1 >= _FEWEST_ROUNDS and time.perf_counter() >= end:
                break
    finally:
        if collecting:
            gc.enable()
    return found


def device_seconds(call: Call, device: torch.device) -> float | None:
    """How long a CUDA device itself works on one call: the sum over what is launched.

    Args:
        call: What to run. It has been run before.
        device: A CUDA device.

    Returns:
        Seconds, without waiting and launching; None where the profiler sees no device.
    """
    cuda = torch.profiler.ProfilerActivity.CUDA
    if cuda not in torch.profiler.supported_activities():
        return None
    times = 5
    try:
        with torch.profiler.profile(activities=[cuda]) as profile:
            for _ in range(times):
                call()
            torch.cuda.synchronize(device)
    except RuntimeError:  # a machine may forbid it; the call itself has run before
        return None
    events = profile.profiler.kineto_results.events()
    # What is not on the CPU is a kernel, a copy or a fill.
    spent = [event.duration_ns() for event in events if event.device_type().name != "CPU"]
    return sum(spent) / 1e9 / times if spent else None


class _CpuSampler:
    """Times calls by the CPU's clock."""

    def plan(self, call: Call) -> tuple[int, int]:
        """How many samples a turn takes, and of how many calls each is."""
        once = self._time(call, 1)
        once = max(once if once > _LONG else self._time(call, 1), 1e-9)
        repeats = max(1, round(_SHORTEST_SAMPLE / once))
        return max(1, int(_TURN / (once * repeats))), repeats

    def take(self, call: Call, samples: int, repeats: int) -> list[float]:
        """Samples of one turn, in seconds a call."""
        return [self._time(call, repeats) / repeats for _ in range(samples)]

    def _time(self, call: Call, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - begin


class _CudaSampler:
    """Times calls by CUDA events; the host runs ahead while the cache is written over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.scratch = torch.empty(max(2 * cache, 1 << 28), dtype=torch.uint8, device=device)

    def plan(self, call: Call) -> tuple[int, int]:
        """How many samples a turn takes, of one call each."""
        call()
        torch.cuda.synchronize(self.device)
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize(self.device)
        once = max(time.perf_counter() - begin, 1e-6)
        return min(20, max(1, int(_TURN / once))), 1

    def take(self, call: Call, samples: int, repeats: int) -> list[float]:
        """Samples of one turn, in seconds a call."""
        pairs = []
        for _ in range(samples):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.scratch.zero_()
            begin.record()
            for _ in range(repeats):
                call()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) / 1e3 / repeats for begin, end in pairs]
