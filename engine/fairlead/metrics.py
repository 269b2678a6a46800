"""A stage's metrics: means over everything that counted, and the two files they go to.

``metrics.jsonl`` holds one object a line, ``{"step", "time", name: value, ...}``; a step
names only what it measured. ``metrics.csv`` holds the same numbers in long form,
``step,metric,value``, so that a metric which first appears late needs no column of its own.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairlead.components import Logger

JSONL = "metrics.jsonl"
CSV = "metrics.csv"
CSV_HEADER = "step,metric,value\n"


class Sums:
    """Metrics as (sum, weight), so that a mean is over everything that was added.

    A mean of the means of microbatches would count a token in a small microbatch for more
    than one in a large microbatch.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: float, weight: float) -> None:
        """Add to one metric.

        Args:
            name: The metric.
            total: The sum over what counts here.
            weight: How much counts here: tokens, pairs, prompts.
        """
        total_before, weight_before = self._pairs.get(name, (0.0, 0.0))
        self._pairs[name] = (total_before + float(total), weight_before + float(weight))

    def add_all(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Add name to (sum, weight), as a `fairlead.components.LossTerm` carries them."""
        for name, (total, weight) in metrics.items():
            self.add(name, total, weight)

    def pairs(self) -> dict[str, tuple[float, float]]:
        """Return name to (sum, weight): what ranks add up before anyone divides."""
        return dict(self._pairs)

    def means(self) -> dict[str, float]:
        """Return sum / weight; a metric whose weight is zero was not measured and is absent."""
        return {
            name: total / weight for name, (total, weight) in self._pairs.items() if weight != 0
        }


class MetricsWriter:
    """Appends a stage's metrics to ``metrics.jsonl`` and ``metrics.csv``, and to loggers.

    Both files are flushed after each step, so a run that is killed keeps what it measured.
    """

    def __init__(
        self, directory: Path, loggers: Sequence[Logger] = (), resume_step: int | None = None
    ) -> None:
        """Open the two files.

        Args:
            directory: The stage's directory; made when absent.
            loggers: Where metrics go besides; closed with this writer.
            resume_step: None or 0 begins the files anew. A step keeps what was written up to
                it and drops the rest, which the resumed run is about to write again.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._loggers = list(loggers)
        # Step 0 is what a stage measures before its first step, and measures again when a
        # resume found no checkpoint to go on from.
        keep = resume_step or -1
        elapsed = _keep_jsonl(directory / JSONL, keep)
        _keep_csv(directory / CSV, keep)
        self._jsonl = (directory / JSONL).open("a", encoding="utf-8", newline="\n")
        self._csv = (directory / CSV).open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._csv, lineterminator="\n")
        self._started = time.monotonic() - elapsed

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step.

        Args:
            step: 1-based.
            metrics: Name to value. A value that is not finite becomes null in the JSONL,
                whose standard has no NaN, and stays ``nan`` or ``inf`` in the CSV.
        """
        values = {name: float(value) for name, value in metrics.items()}
        seconds = round(time.monotonic() - self._started, 3)
        row: dict[str, Any] = {"step": step, "time": seconds}
        row.update({n: v if math.isfinite(v) else None for n, v in values.items()})
        self._jsonl.write(json.dumps(row, allow_nan=False) + "\n")
        self._jsonl.flush()
        self._rows.writerows((step, name, value) for name, value in values.items())
        self._csv.flush()
        for logger in self._loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Close the files, then every logger, even when one of them fails; call it once."""
        self._jsonl.close()
        self._csv.close()
        failed: Exception | None = None
        for logger in self._loggers:
            try:
                logger.close()
            except Exception as error:  # the others still want to flush
                failed = failed or error
        self._loggers = []
        if failed is not None:
            raise failed

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a ``metrics.jsonl``.

    Args:
        path: The file; a missing one holds no metrics.

    Returns:
        The rows, each with an integer ``step``; and how many lines could not be read, not
        counting a last line that a kill cut short.
    """
    rows: list[dict[str, Any]] = []
    unreadable = 0
    for line, whole in _lines(path):
        row = parse_object(line)
        step = None if row is None else row.get("step")
        if row is not None and type(step) is int and 0 <= step < 2**53:
            rows.append(row)
        elif whole and line.strip():
            unreadable += 1
    return rows, unreadable


def parse_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object a line holds, or None when it holds none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[tuple[str, bool]]:
    """Return each line, and whether it is whole: only a cut-off last one has no newline."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return [(line.rstrip("\r\n"), line.endswith("\n")) for line in file]


def _keep_jsonl(path: Path, last_step: int) -> float:
    """Drop the rows after ``last_step``; return the time the last kept one was written at."""
    rows = [row for row in read_metrics(path)[0] if row["step"] <= last_step]
    replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    seconds = rows[-1].get("time") if rows else 0.0
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def _keep_csv(path: Path, last_step: int) -> None:
    kept = io.StringIO(newline="")
    kept.write(CSV_HEADER)
    writer = csv.writer(kept, lineterminator="\n")
    whole = "".join(line + "\n" for line, whole in _lines(path) if whole)
    for row in csv.reader(io.StringIO(whole, newline="")):
        if len(row) == 3 and row[0].isdecimal() and int(row[0]) <= last_step:
            writer.writerow(row)
    replace_text(path, kept.getvalue())


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of one."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
