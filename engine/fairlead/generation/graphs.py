"""Decoding steps repeated on memory that stays: on a GPU as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead.errors import brief

_LOG = logging.getLogger(__name__)

Drawn = Sequence[Tensor]
"""A token a row, ``[B]`` int64, its log-prob and the entropy, ``[B]`` float32."""

StepFunction = Callable[[Tensor, Tensor, Tensor], Drawn]
"""From tokens and positions, ``[B]`` int64, and uniform numbers, ``[B]`` float64, to what is drawn
next; it fills the cache."""


class Captured(Protocol):
    """A step on memory that stays, run once already."""

    @property
    def result(self) -> Drawn:
        """What was drawn in the last run, always in the same tensors."""
        ...

    def run(self, rows: int) -> Drawn:
        """Repeat it, for the first rows at least; returns `result`."""
        ...


class RepeatedStep:
    """A decoding step, captured for a few numbers of rows, and repeated.

    Rows are filled up to a power of two, or to all slots. What fills them up is in slots that are
    free: those after the live ones.

    Args:
        step: Runs a step; rows do not depend on one another.
        slots: Most rows.
        device: Where it runs.
        capture: Runs a step on these very tensors, and returns what repeats it.
        name: What is decoded, for a warning.
        warm: Whether a number of rows is run as it is when it first comes: what a graph needs is
            then compiled and loaded.
    """

    def __init__(
        self,
        step: StepFunction,
        slots: int,
        device: torch.device,
        capture: Callable[[Tensor, Tensor, Tensor], Captured],
        name: str,
        warm: bool,
    ) -> None:
        self._step, self._slots, self._name, self._warm = step, slots, name, warm
        self._capture: Callable[[Tensor, Tensor, Tensor], Captured] | None = capture
        self._tokens, self._positions = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self._uniform = torch.zeros(slots, dtype=torch.float64, device=device)
        self._met: set[int] = set()
        self._captured: dict[int, Captured] = {}

    def __call__(self, tokens: Tensor, positions: Tensor, uniform: Tensor) -> Drawn:
        """Run the step. What is drawn lies where a later call writes its own."""
        live = len(tokens)
        rows = filled_up(live, self._slots) if self._capture else live
        self._tokens[:live], self._positions[:live] = tokens, positions
        self._uniform[:live] = uniform
        self._positions[live:rows] = 0  # such a row attends to itself alone
        captured = self._captured.get(rows)
        drawn = captured.run(live) if captured else self._first(live, rows)
        return drawn if live == rows else [one[:live] for one in drawn]

    def _first(self, live: int, rows: int) -> Drawn:
        """Run the step as it is, or capture it."""
        buffers = (self._tokens, self._positions, self._uniform)
        given = [one[:rows] for one in buffers]
        wait = self._warm and rows not in self._met
        self._met.add(rows)
        if wait or self._capture is None:
            return self._step(*given)
        try:
            captured = self._captured[rows] = self._capture(*given)
        except Exception as error:  # whatever a model does that cannot be repeated so
            _LOG.warning(
                "decoding %s without capturing its steps, which is slower: %s",
                self._name,
                brief(error),
            )
            self._capture = None
            return self._step(*(one[:live] for one in buffers))
        return captured.result


class CudaGraphs:
    """Captures steps as CUDA graphs, one launch each in place of hundreds, that share their memory.

    Autocast keeps the casts of weights that are trained for as long as it is on around all steps.
    Graphs read those of the steps before them, and do not cast these again.

    Args:
        step: The step; run once before with as many rows.
        device: The GPU.
    """

    def __init__(self, step: StepFunction, device: torch.device) -> None:
        self._step, self._device = step, device
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def __call__(self, *given: Tensor) -> Captured:
        """Capture the step on these tensors, and run it.

        Raises:
            Exception: What the step does that no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self._device)
        # What other threads do with the device meanwhile is no part of it.
        capture = torch.cuda.graph(graph, self._pool, self._stream, "thread_local")
        try:
            with torch.cuda.device(self._device), capture:
                result = self._step(*given)
        except Exception as error:
            torch.cuda.set_stream(before)  # a capture that fails would leave its own
            raise error.__context__ or error from None
        captured = _CudaGraph(graph, result)
        captured.run(len(given[0]))
        return captured


@dataclass(frozen=True)
class _CudaGraph:
    graph: torch.cuda.CUDAGraph
    result: Drawn

    def run(self, rows: int) -> Drawn:
        self.graph.replay()
        return self.result


def filled_up(rows: int, slots: int) -> int:
    """Return the number of rows that a step is captured for: the next power of two, or all slots.

    There are few of these, and a run of all of them costs less than twice what its rows do.
    """
    return min(slots, 1 << (rows - 1).bit_length())
