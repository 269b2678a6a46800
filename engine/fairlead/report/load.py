"""Reading a run directory, whatever state it is in.

``run.json`` says what ran. Each stage has a directory of its own with ``stage.json``
(status and summary), ``metrics.jsonl``, from a comparison of models ``samples.jsonl``, and
``report.json`` where it puts blocks of its own on the page. All but ``run.json`` may be
missing: a run is read while it goes on, and after it was killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.errors import ConfigError
from fairlead.metrics import JSONL, parse_object, read_metrics
from fairlead.report.blocks import BLOCKS, Sheet, read_blocks
from fairlead.report.values import drawable, is_number, number

MANIFEST = "run.json"
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Response:
    """One model's answer and the score it was given, if any."""

    text: str
    score: float | None


@dataclass(frozen=True)
class Sample:
    """One prompt and each model's response to it, by model."""

    prompt: str
    responses: Mapping[str, Response]


@dataclass(frozen=True)
class StageRecord:
    """What a stage left behind.

    Attributes:
        name: The instance's name.
        component: Which stage it is an instance of; empty when unknown.
        status: ``finished``, ``running``, ``failed``, ``stopped`` or ``not started``.
        error: Why it ended early; may be empty.
        seconds: Time spent, or None.
        steps: Steps done, as far as known.
        summary: Results by name.
        rows: One mapping for each step that was logged, ordered by step.
        samples: Completions, side by side.
        sheet: Blocks of its own.
        unreadable: Lines and blocks of its files that could not be read.
    """

    name: str
    component: str = ""
    status: str = "not started"
    error: str = ""
    seconds: float | None = None
    steps: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sheet: Sheet = field(default_factory=Sheet)
    unreadable: int = 0

    def number(self, name: str) -> float | None:
        """Return a number of the summary, or None when it has no such finite number."""
        return number(self.summary.get(name))

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return the (step, value) of a metric; a value that was not finite is NaN."""
        values = ((row["step"], row[name]) for row in self.rows if name in row)
        return [(step, drawable(v)) for step, v in values if v is None or is_number(v)]

    @property
    def metrics(self) -> list[str]:
        """Names of all numeric metrics, in the order they first appear."""
        names: dict[str, None] = {}
        for row in self.rows:
            names.update((n, None) for n, v in row.items() if v is None or is_number(v))
        return [name for name in names if name not in ("step", "time")]


@dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
        path: The directory.
        manifest: ``run.json``.
        stages: Its stages, in order.
    """

    path: Path
    manifest: Mapping[str, Any]
    stages: list[StageRecord]

    def text(self, key: str) -> str:
        """Return a manifest entry as text; empty when it is absent or null."""
        value = self.manifest.get(key)
        return "" if value is None else str(value)

    @property
    def status(self) -> str:
        """The run's status; ``unknown`` when it does not say."""
        return self.text("status") or "unknown"


def load_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        ConfigError: When it holds no readable ``run.json``.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} is not a run: it holds no readable {MANIFEST} ({error.strerror}). A run is "
            "the directory given to 'fairlead pipeline' as --out, with run.json and one directory "
            "for each stage. Give that directory."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path / MANIFEST} is damaged: {error}. It must be one JSON object, as 'fairlead "
            "run' writes it; run again with --resume to have it written anew."
        ) from error
    if not isinstance(manifest, dict):
        raise ConfigError(
            f"{path / MANIFEST} holds a {type(manifest).__name__}; it must be one JSON object, "
            "as 'fairlead pipeline' writes it. Give the directory of a run."
        )
    named = manifest.get("stages")
    names = [str(name) for name in named] if isinstance(named, list) else []
    # Only names the configuration allows: nothing here may lead out of the run's directory.
    known = [name for name in names if _STAGE_NAME.fullmatch(name)]
    return Run(path, manifest, [load_stage(path / name) for name in known])


def load_stage(directory: Path) -> StageRecord:
    """Read one stage's directory, which may be missing."""
    entry = _read_object(directory / "stage.json")
    rows, bad_rows = read_metrics(directory / JSONL)
    rows.sort(key=lambda row: int(row["step"]))
    samples, bad_samples = _read_samples(directory / "samples.jsonl")
    sheet = read_blocks(directory / BLOCKS)
    summary = entry.get("summary")
    anything = rows or samples or sheet.blocks
    status = entry.get("status") or ("unknown" if anything else "not started")
    steps = number(entry.get("steps"))
    return StageRecord(
        name=directory.name,
        component=str(entry.get("component") or ""),
        status=str(status),
        error=str(entry.get("error") or ""),
        seconds=number(entry.get("seconds")),
        steps=int(steps) if steps else max((row["step"] for row in rows), default=0),
        summary=summary if isinstance(summary, dict) else {},
        rows=rows,
        samples=samples,
        sheet=sheet,
        unreadable=bad_rows + bad_samples + sheet.unreadable,
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_text(encoding="utf-8", errors="replace")) or {}
    except OSError:
        return {}


def _read_samples(path: Path) -> tuple[list[Sample], int]:
    """Return the samples, and how many whole lines hold none."""
    samples: list[Sample] = []
    unreadable = 0
    if not path.is_file():
        return samples, unreadable
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        entry = parse_object(line)
        if entry is not None and isinstance(entry.get("responses"), dict):
            responses = {str(name): _response(item) for name, item in entry["responses"].items()}
            samples.append(Sample(str(entry.get("prompt", "")), responses))
        elif line.strip():
            unreadable += 1
    cut_short = bool(line.strip()) and entry is None  # the last one, by a kill
    return samples, unreadable - cut_short


def _response(item: Any) -> Response:
    if isinstance(item, Mapping):
        return Response(str(item.get("text", "")), number(item.get("score")))
    return Response(str(item), None)
