"""Registers the loggers. Imports nothing heavy: factories are names, imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead import hookimpl

if TYPE_CHECKING:
    from fairlead.registry import Register


@hookimpl
def register_loggers(register: Register) -> None:
    """Bring ``tensorboard``."""
    register("tensorboard", "fairlead_plugins.loggers.tensorboard:TensorBoardLogger")
