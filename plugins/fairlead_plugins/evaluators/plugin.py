"""Registers the default evaluators and the stage that compares models."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_evaluators(register: Register) -> None:
    """Register ``reward`` and ``nll``."""
    register("reward", "fairlead_plugins.evaluators.reward:RewardEvaluator")
    register("nll", "fairlead_plugins.evaluators.nll:NllEvaluator")


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``compare``."""
    register("compare", "fairlead_plugins.evaluators.compare:CompareStage")
