"""What a person sees while a run goes on: a progress bar on a terminal, lines elsewhere.

Everything goes to stderr, except tables, which somebody asked for. Rich is imported when
something is first drawn with it, so that ``--help`` stays quick.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

WATCHED = (
    "loss/train",
    "loss/heldout",
    "accuracy",
    "objective/scores",
    "objective/kl",
    "loss/ptx",
    "eval/reward",
)
"""The few numbers people watch; a line shows those of them that a stage has measured."""

SHOWN = 4
BAR_WIDTH = 20
SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.1


class StageProgress:
    """How far one stage is; `Display.stage` hands it out.

    Attributes:
        name: The stage's name.
        description: What is counted: ``step``, ``iteration``.
        total: Steps in all, or None while that is not known; a stage may set it.
    """

    def __init__(self, name: str, description: str, total: int | None) -> None:
        self.name = name
        self.description = description
        self.total = total
        self.step = 0
        self._latest: dict[str, float] = {}
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that a step is done.

        Args:
            step: 1-based; the first one shown may be any, as after a resume.
            metrics: What the step measured.
        """
        self.step = step
        self._latest.update(metrics)
        if self._first is None:
            self._first = (step, time.monotonic())
        self._show()

    def close(self) -> None:
        """Show where the stage ended."""

    def _show(self) -> None:
        """Draw; the base class is silent."""

    @property
    def steps_per_second(self) -> float | None:
        """Speed since the first step shown, or that of the first step itself."""
        if self._first is None:
            return None
        first_step, first_time = self._first
        now = time.monotonic()
        steps, seconds = self.step - first_step, now - first_time
        if steps <= 0:
            steps, seconds = 1, first_time - self._began
        return steps / seconds if seconds > 0 else None

    def speed(self) -> str:
        """Return the throughput for people: tokens where the stage counts them, else steps."""
        tokens = self._latest.get("tokens_per_second")
        if tokens is not None:
            return f"{short(tokens)} tokens/s"
        rate = self.steps_per_second
        if rate is None:
            return ""
        return f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"

    def count(self) -> str:
        """Return how far it is: ``step 3/20``."""
        of = f"/{self.total}" if self.total else ""
        return f"{self.description} {self.step}{of}".lstrip()

    def time_left(self) -> str:
        """Return the time left for people, or an empty string where it is not known."""
        rate = self.steps_per_second
        if self.total is None or not rate or self.step >= self.total:
            return ""
        return clock((self.total - self.step) / rate)

    def numbers(self, width: int | None = None) -> str:
        """Return the first few of `WATCHED` that were measured, with their latest values.

        Args:
            width: Columns there are for them; numbers that do not fit are left out whole.
        """
        known = [name for name in WATCHED if name in self._latest][:SHOWN]
        shown = ""
        for name in known:
            longer = f"{shown}  {name} {short(self._latest[name])}".lstrip()
            if width is None or len(longer) <= width:
                shown = longer
        return shown


class _Lines(StageProgress):
    """Plain lines: the first step, the last, and a few between."""

    def __init__(self, name: str, description: str, total: int | None) -> None:
        super().__init__(name, description, total)
        self._printed_step = 0
        self._printed_at = float("-inf")

    def _show(self) -> None:
        now = time.monotonic()
        share = (self.step - self._printed_step) / self.total if self.total else 0.0
        due = now - self._printed_at >= SECONDS_BETWEEN_LINES or share >= SHARE_BETWEEN_LINES
        if due or self.step == self.total:
            self._print(now)

    def close(self) -> None:
        if self.step != self._printed_step:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self._printed_step, self._printed_at = self.step, now
        left = self.time_left()
        parts = [
            f"{self.name}: {self.count()}",
            self.numbers(),
            self.speed(),
            left and f"{left} left",
        ]
        _line("  ".join(part for part in parts if part), sys.stderr)


class _Bar(StageProgress):
    """A rich progress bar."""

    def __init__(self, name: str, description: str, total: int | None, bar: Any, task: Any) -> None:
        super().__init__(name, description, total)
        self._bar = bar
        self._task = task

    def _show(self) -> None:
        left = self.time_left()
        pace = ", ".join(part for part in (self.speed(), left and f"{left} left") if part)
        count = self.count()
        gaps = 4
        taken = len(self.name) + BAR_WIDTH + len(count) + len(pace) + gaps
        self._bar.update(
            self._task,
            completed=self.step,
            total=self.total,
            count=count,
            pace=pace,
            numbers=self.numbers(self._bar.console.width - taken),
        )


class Display:
    """Where the engine and its stages say what goes on."""

    def __init__(self, quiet: bool = False) -> None:
        """Decide how to draw.

        Args:
            quiet: Show warnings and the tables asked for, nothing else.
        """
        self.quiet = quiet
        self._consoles: dict[str, Console] = {}

    @contextmanager
    def stage(self, name: str, description: str, total: int | None) -> Iterator[StageProgress]:
        """Show a stage's progress while the block runs.

        Args:
            name: The stage's name.
            description: What is counted, in a word or two: ``step``, ``iteration``.
            total: Steps in all, or None when that is not known.
        """
        if self.quiet:
            yield StageProgress(name, description, total)
            return
        if not _draws(sys.stderr):
            lines = _Lines(name, description, total)
            try:
                yield lines
            finally:
                lines.close()
            return
        with self._progress() as bar:
            task = bar.add_task("", total=total, count="", pace="", numbers="", stage=name)
            yield _Bar(name, description, total, bar, task)

    def note(self, text: str) -> None:
        """Say something that is good to know."""
        if not self.quiet:
            self._say(text)

    def warn(self, text: str) -> None:
        """Say something that may need doing something about; shown when quiet, too."""
        self._say(f"warning: {text}", style="yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table on stdout: drawn on a terminal, aligned plain text in a pipe.

        Args:
            title: Stands above it; may be empty.
            columns: The headings.
            rows: One value for each column; shown with `str`.
        """
        cells = [[printable(str(value)) for value in row] for row in rows]
        if not _draws(sys.stdout):
            _line(plain_table(title, columns, cells), sys.stdout)
            return
        from rich.table import Table
        from rich.text import Text

        # Text, not str: a string would be read as rich's markup, and may be a model's output.
        drawn = Table(title=Text(title, style="bold") if title else None, title_justify="left")
        for column in columns:
            drawn.add_column(Text(column), overflow="fold")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        self._console("stdout").print(drawn)

    def _say(self, text: str, style: str = "") -> None:
        if not _draws(sys.stderr):
            _line(printable(text), sys.stderr)
            return
        from rich.text import Text

        self._console("stderr").print(Text(printable(text), style=style))

    def _console(self, stream: str) -> Console:
        """Return the one console of a stream: a bar and the notes above it must share it."""
        if stream not in self._consoles:
            from rich.console import Console

            self._consoles[stream] = Console(stderr=stream == "stderr")
        return self._consoles[stream]

    def _progress(self) -> Any:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        def text(field: str) -> TextColumn:
            column = Column(no_wrap=True, overflow="ellipsis")
            return TextColumn("{task.fields[" + field + "]}", markup=False, table_column=column)

        columns = (
            text("stage"),
            BarColumn(BAR_WIDTH),
            text("count"),
            text("pace"),
            text("numbers"),
        )
        return Progress(*columns, console=self._console("stderr"))


def short(value: float) -> str:
    """Return a number in few characters: ``3.142``, ``1.2e-05``, ``12,300``."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """Return text without control characters, which could steer the terminal.

    Model output and records end up here; a newline and a tab are kept.
    """
    return "".join(
        char if char in "\n\t" or char.isprintable() else ascii(char)[1:-1] for char in text
    )


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as aligned text; no cell is cut or wrapped."""
    flat = [[cell.replace("\n", " ") for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[index]) for row in flat) for index in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in flat
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(([title, ""] if title else []) + lines)


def _draws(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _line(text: str, stream: TextIO) -> None:
    # A locale that cannot write a character must not end a training run.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
