"""Metrics as TensorBoard event files; an optional package, imported when a run uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from fairlead.config import Config
from fairlead.errors import ConfigError


class TensorBoardConfig(Config):
    """Settings of `TensorBoardLogger`.

    Attributes:
        directory: Where event files go, inside the stage's directory.
        flush_seconds: How long a value may wait in memory.
    """

    directory: str = Field(default="tensorboard", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    flush_seconds: int = Field(default=10, ge=1)


class TensorBoardLogger:
    """Writes each metric as a scalar, under its own name.

    Read them with ``tensorboard --logdir RUN``, which shows every stage of the run.
    """

    Config = TensorBoardConfig

    def __init__(self, config: TensorBoardConfig, directory: Path) -> None:
        """Check that TensorBoard is there; files are made at the first step.

        Raises:
            ConfigError: When the package is not installed.
        """
        try:
            # A package without type information, installed only by the extra.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "the logger 'tensorboard' needs the package tensorboard, which cannot be "
                f"imported here ({error}). Install it: pip install 'fairlead[tensorboard]', or "
                "take the logger out of 'loggers:'."
            ) from error
        self._make: Any = SummaryWriter
        self._config = config
        self._directory = directory / config.directory
        self._writer: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step."""
        if self._writer is None:
            # Events are never erased: purge_step tells TensorBoard to forget what an earlier
            # process, resumed by this one, wrote from this step on.
            self._writer = self._make(
                str(self._directory), purge_step=step, flush_secs=self._config.flush_seconds
            )
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
