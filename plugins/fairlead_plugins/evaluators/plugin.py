"""Registers the default evaluators and the stages that measure and compare models."""

from fairlead import hookimpl
from fairlead.registry import Register


@hookimpl
def register_evaluators(register: Register) -> None:
    """Register ``reward``, ``nll``, ``win_rate``, ``task_accuracy`` and ``agreement``."""
    register("reward", "fairlead_plugins.evaluators.reward:RewardEvaluator")
    register("nll", "fairlead_plugins.evaluators.nll:NllEvaluator")
    register("win_rate", "fairlead_plugins.evaluators.win_rate:WinRateEvaluator")
    register("task_accuracy", "fairlead_plugins.evaluators.task_accuracy:TaskAccuracyEvaluator")
    register("agreement", "fairlead_plugins.evaluators.agreement:AgreementEvaluator")


@hookimpl
def register_stages(register: Register) -> None:
    """Register ``compare`` and ``evaluate``."""
    register("compare", "fairlead_plugins.evaluators.compare:CompareStage")
    register("evaluate", "fairlead_plugins.evaluators.evaluate:EvaluateStage")
