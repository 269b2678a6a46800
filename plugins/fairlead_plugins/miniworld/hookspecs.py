"""The hooks of the miniworld's own: labelers are a kind of component that it adds."""

from __future__ import annotations

from fairlead.hookspecs import hookspec
from fairlead.registry import Register


@hookspec
def register_labelers(register: Register) -> None:
    """Register labelers (`fairlead_plugins.miniworld.labelers.Labeler`): who ranks answers."""
