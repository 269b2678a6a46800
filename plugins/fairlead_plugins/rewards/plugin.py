"""Registers the default rewards."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_reward_models(register: Register) -> None:
    """Register ``reward_model``, ``classifier``, ``function`` and ``sum``."""
    register("reward_model", "fairlead_plugins.rewards.token:RewardModelReward")
    register("classifier", "fairlead_plugins.rewards.text:ClassifierReward")
    register("function", "fairlead_plugins.rewards.function:FunctionReward")
    register("sum", "fairlead_plugins.rewards.combine:SumReward")
