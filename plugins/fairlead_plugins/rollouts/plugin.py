"""Registers the rollout backends that come with the engine."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_rollout_backends(register: Register) -> None:
    """Register ``native``, the engine's own, and ``hf``, transformers' generate."""
    register("native", "fairlead.generation.native:NativeBackend")
    register("hf", "fairlead.generation.hf:HfBackend")
