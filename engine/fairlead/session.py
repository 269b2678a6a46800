"""What happens around every step of a stage: resume, log, hooks, checkpoint, stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any

from fairlead.checkpoint import CheckpointStore, Stateful
from fairlead.errors import Stopped
from fairlead.metrics import MetricsWriter
from fairlead.stages import StageContext


class StopSignal:
    """Turns the first SIGTERM or Ctrl-C into a request, and lets the second one through."""

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()  # a second signal ends the process at once


class Session:
    """The life of one stage's loop.

    Use it as a context manager around::

        for step in session.steps():
            ...
            session.finish(step, metrics)

    Args:
        context: The stage's context.
        parts: Everything a resume must restore, by name.
        total: Steps in all.
        checkpoint_every: Steps between checkpoints; 0 writes one only when stopped.
        label: What a step is called on the display.
    """

    def __init__(
        self,
        context: StageContext,
        parts: Mapping[str, Stateful],
        *,
        total: int,
        checkpoint_every: int = 0,
        label: str = "step",
    ) -> None:
        self.context = context
        self.parts = parts
        self.total = total
        self.checkpoint_every = checkpoint_every
        self.label = label
        self.store = CheckpointStore(
            context.directory / "checkpoints", context.config.keep_checkpoints
        )
        self.begun_at = 0
        self._stack = ExitStack()
        self._clock = time.perf_counter()

    def __enter__(self) -> Session:
        if self.context.resume:
            self.begun_at = self.store.load(self.parts)
        loggers = [spec.build(self.context.directory) for spec in self.context.config.loggers]
        resumed = self.begun_at if self.context.resume else None
        self.writer = MetricsWriter(self.context.directory, loggers, resumed)
        self._stack.callback(self.writer.close)
        self.progress = self._stack.enter_context(
            self.context.display.stage(self.context.name, self.label, self.total)
        )
        if self.begun_at:
            self.context.display.note(
                f"{self.context.name}: resumed after {self.label} {self.begun_at}"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def steps(self) -> Iterator[int]:
        """Yield the steps that are left, counted from 1."""
        self._clock = time.perf_counter()
        yield from range(self.begun_at + 1, self.total + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics outside a step's end, such as those measured before the first."""
        self.writer.write(step, metrics)

    def finish(self, step: int, metrics: dict[str, float]) -> None:
        """End a step: log it, tell the plugins, write a checkpoint when one is due.

        Raises:
            Stopped: After writing a checkpoint, when a signal has asked for a stop.
        """
        now = time.perf_counter()
        metrics = {**metrics, f"seconds_per_{self.label}": now - self._clock}
        self._clock = now
        self.writer.write(step, metrics)
        self.progress.advance(step, metrics)
        self.context.plugins.hook.step_finished(step=step, metrics=metrics, context=self.context)
        # The last step too: what is left of a stage after it (a bias, an export) can fail.
        due = self.checkpoint_every and (step % self.checkpoint_every == 0 or step == self.total)
        if due or self.context.stop.name:
            path = self.store.save(step, self.parts)
            self.context.plugins.hook.checkpoint_saved(path=path, step=step, context=self.context)
        if self.context.stop.name:
            raise Stopped(
                f"stopped by {self.context.stop.name} after {self.label} {step} of {self.total} of "
                f"stage {self.context.name!r}; a checkpoint is written. Go on with --resume."
            )
