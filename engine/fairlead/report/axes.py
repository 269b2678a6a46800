"""Axes of charts: from data to pixels, with round ticks and the words at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.report.text import figure


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to pixels, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the pixel a value stands at."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def labels(self) -> list[str]:
        """Return what stands at the ticks."""
        return tick_labels(self.ticks)


@dataclass(frozen=True)
class LogAxis(Axis):
    """A logarithmic scale: equal factors are equally far apart. Everything on it is above 0."""

    def at(self, value: float) -> float:
        """Return the pixel a value stands at."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def labels(self) -> list[str]:
        """Return what stands at the ticks, each with as many digits as it needs."""
        return [figure(tick, 3) for tick in self.ticks]


def make_log_axis(low: float, high: float, start: float, end: float) -> LogAxis:
    """Return a logarithmic axis over a range, with ticks at round numbers.

    Args:
        low: Least value, above 0.
        high: Greatest value.
        start: Pixel of the least value.
        end: Pixel of the greatest.
    """
    room = max((high / low) ** 0.04, 1.05)
    low, high = low / room, high * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    else:
        # Over so short a range a logarithmic scale is all but linear.
        step = nice_step((high - low) / 4)
        first, last = math.ceil(low / step), math.floor(high / step)
        ticks = [i * step for i in range(first, last + 1)]
    every = math.ceil(len(ticks) / 7)
    return LogAxis(low, high, start, end, tuple(ticks[::every]))


def make_axis(
    low: float, high: float, start: float, end: float, count: int, whole: bool = False
) -> Axis:
    """Return an axis over a range, padded to where its own ticks stand clear of it.

    Args:
        low: Least value.
        high: Greatest value; equal ones are given some room.
        start: Pixel of the least value.
        end: Pixel of the greatest.
        count: About how many ticks.
        whole: Ticks at whole numbers only, and no padding: steps.
    """
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-200):
        room = 1.0 if whole or abs(low) < 1e-200 else abs(low) * 0.1
        low, high = low - room * (not whole), high + room
    step = nice_step((high - low) / count)
    if whole:
        step = max(math.floor(step), 1.0)  # 2.5 is round, but no number of steps
    else:
        pad = (high - low) * 0.04
        # A quantity that is never negative does not get an axis that dips below zero.
        low, high = (max(low - pad, 0.0) if low >= 0 else low - pad), high + pad
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, tuple(i * step for i in range(first, last + 1)))


def nice_step(rough: float) -> float:
    """Return the least of 1, 2, 2.5, 5 times a power of ten that is at least ``rough``."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return labels that all have the same number of decimals."""
    if len(ticks) < 2 or max(map(abs, ticks)) < 1e-3 or max(map(abs, ticks)) >= 1e5:
        return [figure(tick) for tick in ticks]
    step = ticks[1] - ticks[0]
    decimals = next(
        (d for d in range(8) if abs(round(step * 10**d) - step * 10**d) < 1e-6 * 10**d * step), 8
    )
    return [f"{tick:,.{decimals}f}".replace("-", "\u2212") for tick in ticks]
