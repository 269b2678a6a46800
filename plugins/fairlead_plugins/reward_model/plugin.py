"""Registers the reward-model stage and its loss."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``rm``."""
    register("rm", "fairlead_plugins.reward_model.stage:RewardModelStage")


@hookimpl
def register_losses(register: Register) -> None:
    """Register the preference loss ``ranking``."""
    register("preference/ranking", "fairlead_plugins.reward_model.losses:RankingLoss")
