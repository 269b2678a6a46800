"""What a stage is, and what it is given to work with."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from fairlead.config import RunConfig, Spec
from fairlead.errors import ConfigError, DataError
from fairlead.models import load_config
from fairlead.records import Record, RecordT, convert, stable_fraction
from fairlead.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from fairlead.plugins import Plugins
    from fairlead.session import StopSignal
    from fairlead.strategy import Strategy
    from fairlead.ui import Display


STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Preview:
    """What ``--dry-run`` shows of a stage.

    Attributes:
        facts: Label to value: records, tokens, steps, what was dropped.
        sample: One example as (text, counts) pieces; pieces that count are trained on.
        memory_gib: Part to GiB, estimated from parameter counts and the token budget.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    sample: Sequence[tuple[str, bool]] = ()
    memory_gib: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """One stage instance of one run.

    Attributes:
        name: The instance's name in the configuration.
        config: The whole run's configuration.
        root: The run's output directory.
        plugins: The loaded plugins.
        strategy: Device, precision and (later) ranks.
        display: Progress bar or plain lines.
        stop: Set by SIGTERM or Ctrl-C.
        resume: Whether to take up a checkpoint.
        loaded: Records read so far, by data source; the stages of a run share it, so that a
            file is read, and what is wrong in it reported, once.
    """

    name: str
    config: RunConfig
    root: Path
    plugins: Plugins
    strategy: Strategy
    display: Display
    stop: StopSignal
    resume: bool = False
    loaded: dict[str, Sequence[Record]] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where this stage writes: its model, metrics and checkpoints."""
        return self.root / self.name

    def seed(self, purpose: str) -> int:
        """Return a 31-bit seed for one purpose, a function of run seed, stage and purpose."""
        return zlib.crc32(f"{self.config.seed}/{self.name}/{purpose}".encode()) & 0x7FFFFFFF

    def locate(self, reference: str) -> str:
        """Return the directory or hub name a model reference stands for.

        Args:
            reference: ``stage:NAME``, ``stage:NAME/ema``, a directory or a hub name.

        Raises:
            ConfigError: When the stage it names has not finished in this run's directory.
        """
        if not reference.startswith("stage:"):
            return reference
        stage, _, sub = reference.removeprefix("stage:").partition("/")
        path = self.root / stage / sub if sub else self.root / stage
        # A stage's directory holds checkpoints while it trains; only a finished one has a
        # model to build on.
        if not stage_finished(self.root / stage) or not (path / "config.json").is_file():
            raise ConfigError(
                f"stage {self.name!r} takes {reference}, and this run's directory holds no "
                f"finished stage {stage!r}. Run it into the same --out first (`fairlead pipeline` "
                "runs all), or give a model directory or a hub name instead."
            )
        return str(path)

    def locate_file(self, reference: str) -> str:
        """Return the file that ``stage:NAME/FILE`` stands for; other text is returned as it is.

        Raises:
            ConfigError: When the stage has not finished in this run's directory, or wrote no
                such file.
        """
        if not reference.startswith("stage:"):
            return reference
        stage, _, name = reference.removeprefix("stage:").partition("/")
        path = self.root / stage / name
        if not stage_finished(self.root / stage) or not path.is_file():
            what = repr(name) if name else "file without a name (stage:NAME/FILE)"
            raise ConfigError(
                f"stage {self.name!r} reads {reference}, and this run's directory holds no {what} "
                f"of a finished stage {stage!r}. Run that stage into the same --out first "
                "(`fairlead pipeline` runs all), or give the path of a file."
            )
        return str(path)

    def tokenizer(self, reference: str) -> Any:
        """Load the tokenizer of a model reference; see `fairlead.tokenizers.load_tokenizer`."""
        return load_tokenizer(
            self.locate(reference), trust_remote_code=self.config.trust_remote_code
        )

    def model_config(self, reference: str) -> Any:
        """Load a model reference's configuration; see `fairlead.models.load_config`."""
        return load_config(self.locate(reference), trust_remote_code=self.config.trust_remote_code)

    def records(self, source: Spec, kind: type[RecordT], part: str = "train") -> list[RecordT]:
        """Load a data source's records as one kind, one side of the run's split.

        Args:
            source: Which data source, with its settings; ``stage:NAME/FILE`` among them stands
                for a file that an earlier stage wrote.
            kind: `Text`, `Prompt`, `Demonstration` or `Comparison`.
            part: ``train``, ``heldout`` or ``all``.

        Raises:
            DataError: When the source cannot be read or its records do not fit.
        """
        key = json.dumps(source.dump(), sort_keys=True)
        if key not in self.loaded:
            self.loaded[key] = _replaced(source, self.locate_file).build().load()
        loaded = self.loaded[key]
        chosen = [convert(record, kind) for record in loaded]
        if part == "all" or self.config.heldout == 0:
            return chosen if part != "heldout" else []
        wanted = part == "heldout"
        kept = [
            record
            for record, original in zip(chosen, loaded, strict=True)
            if self.is_heldout(original) == wanted
        ]
        if chosen and not kept and not wanted:
            raise DataError(
                f"all {len(chosen)} records of the data source {source.name!r} fell on the "
                f"held-out side (heldout={self.config.heldout}). Lower heldout, or give more "
                "records; plain text is cut into more documents by separator."
            )
        return kept

    def is_heldout(self, record: Record) -> bool:
        """Whether a record is kept out of training, in every stage of the run alike."""
        return stable_fraction(record.split_key(), self.config.seed) < self.config.heldout


def read_stage(directory: Path) -> dict[str, Any]:
    """Return what a stage directory says of itself; empty when it is none."""
    with suppress(OSError, ValueError):
        data: dict[str, Any] = json.loads((directory / STAGE_FILE).read_text())
        return data
    return {}


def stage_finished(directory: Path) -> bool:
    """Whether a directory holds a finished stage's output."""
    return read_stage(directory).get("status") == "finished"


def _replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return settings with every text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Spec):
        return replace(value, config=_replaced(value.config, change))
    if isinstance(value, BaseModel):
        changed = {name: _replaced(item, change) for name, item in value}
        return value.model_copy(update=changed)
    if isinstance(value, Mapping):
        return {key: _replaced(item, change) for key, item in value.items()}
    return [_replaced(item, change) for item in value] if isinstance(value, list) else value


class Stage(Protocol):
    """``Stage(config)``: one whole training loop, or another step of a pipeline."""

    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work; leave a loadable model in ``context.directory``; return a summary."""
        ...

    def preview(self, context: StageContext) -> Preview:
        """Resolve everything short of training: what ``--dry-run`` shows.

        Leaves the tokenizer and ``config.json`` of its output in ``context.directory``, so
        that the next stage can be previewed too.
        """
        ...
