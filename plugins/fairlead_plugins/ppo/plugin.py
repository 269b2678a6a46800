"""Registers the RL stage, PPO and its losses."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``ppo``."""
    register("ppo", "fairlead_plugins.ppo.stage:PpoStage")


@hookimpl
def register_algorithms(register: Register) -> None:
    """Register ``ppo``."""
    register("ppo", "fairlead_plugins.ppo.algorithm:Ppo")


@hookimpl
def register_losses(register: Register) -> None:
    """Register the clipped policy and value losses."""
    register("policy/clipped", "fairlead_plugins.ppo.losses:ClippedPolicyLoss")
    register("value/clipped", "fairlead_plugins.ppo.losses:ClippedValueLoss")
