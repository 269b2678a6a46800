"""Registers the rollout backends that come with the engine."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_rollout_backends(register: Register) -> None:
    """Register ``hf``: transformers' generate with the pinned sampler."""
    register("hf", "fairlead.generation.hf:HfBackend")
