"""Decoding steps repeated on memory that stays: on a GPU as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.errors import brief

_LOG = logging.getLogger(__name__)

_MOST = 16

Drawn = Sequence[Tensor]
"""A token a row, ``[B]`` int64, its log-prob and the entropy, ``[B]`` float32."""

StepFunction = Callable[[Tensor, Tensor, Tensor], Drawn]
"""From tokens and positions, ``[B]`` int64, and uniform numbers, ``[B]`` float64, to what is drawn
next; it fills the cache."""


class Captured(Protocol):
    """A computation on memory that stays, run once already.

    Attributes:
        result: Of the last run, always the same tensors.
    """

    result: Drawn

    def run(self) -> Drawn:
        """Repeat it; returns `result`."""
        ...


class RepeatedStep:
    """A decoding step, captured for numbers of rows that come twice running, and repeated.

    A first time it is run as it is: what it needs is then compiled and loaded, and a number of rows
    that is gone by the next step is not worth more.

    Args:
        step: Runs the step; rows do not depend on one another.
        slots: Most rows.
        device: Where it runs.
        capture: Runs a step on these very tensors, and returns what repeats it.
        name: What is decoded, for a warning.
        filled: From rows to the number that they are filled up to, so that there are few numbers.
            What fills up is in slots that are free: those after the live ones.
    """

    def __init__(
        self,
        step: StepFunction,
        slots: int,
        device: torch.device,
        capture: Callable[[Tensor, Tensor, Tensor], Captured],
        name: str,
        filled: Callable[[int], int],
    ) -> None:
        self._step, self._name, self._filled = step, name, filled
        self._capture: Callable[[Tensor, Tensor, Tensor], Captured] | None = capture
        self._tokens, self._positions = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self._uniform = torch.zeros(slots, dtype=torch.float64, device=device)
        self._captured: dict[int, Captured] = {}
        self._last = 0

    def __call__(self, tokens: Tensor, positions: Tensor, uniform: Tensor) -> Drawn:
        """Run the step. What is drawn lies where a later call writes its own."""
        live = len(tokens)
        rows = self._filled(live)
        self._tokens[:live], self._positions[:live] = tokens, positions
        self._uniform[:live] = uniform
        self._positions[live:rows] = 0  # such a row attends to itself alone
        if rows in self._captured:
            drawn = self._captured[rows].run()
        else:
            drawn = self._first(rows, again=rows == self._last)
        self._last = rows
        return drawn if live == rows else [one[:live] for one in drawn]

    def _first(self, rows: int, again: bool) -> Drawn:
        """Run the step as it is, or capture it where it comes again."""
        given = tuple(one[:rows] for one in (self._tokens, self._positions, self._uniform))
        if not again or self._capture is None:
            return self._step(*given)
        try:
            captured = self._capture(*given)
        except Exception as error:  # whatever a model does that cannot be repeated so
            _LOG.warning(
                "decoding %s without capturing its steps, which is slower: %s",
                self._name,
                brief(error),
            )
            self._capture = None
            return self._step(*given)
        self._captured[rows] = captured
        while len(self._captured) > _MOST:
            del self._captured[next(iter(self._captured))]
        return captured.result


class CudaGraph:
    """A step captured as a CUDA graph: one launch in place of hundreds.

    Autocast keeps the casts of weights for as long as it is on around all steps. A graph reads
    those of the step before it, and does not cast again.

    Args:
        step: The step; run once before.
        *given: Its tensors, on the GPU.
        pool: As of `torch.cuda.graph_pool_handle`: graphs that share one share their memory.
    """

    def __init__(self, step: StepFunction, *given: Tensor, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(given[0].device), torch.cuda.graph(self._graph, pool=pool):
            self.result = step(*given)
        self.run()

    def run(self) -> Drawn:
        """Repeat it; returns `result`."""
        self._graph.replay()
        return self.result


def filled_up(rows: int, slots: int, sizes: int) -> int:
    """Return the number of rows that a step of ``rows`` is run with.

    Args:
        rows: From 1 to ``slots``.
        slots: Most.
        sizes: A power of two: so many numbers there are between a power of two and the next. Few
            are captured less often, many waste less on rows that fill up.
    """
    unit = max(1, (1 << (rows - 1).bit_length()) // (2 * sizes))
    return min(slots, -(-rows // unit) * unit)
