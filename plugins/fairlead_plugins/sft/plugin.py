"""Registers the SFT stage."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``sft``."""
    register("sft", "fairlead_plugins.sft.stage:SftStage")
