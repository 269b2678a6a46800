"""How often a model gets tasks right, or how well, as a reward says."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from fairlead.components import Measurement
from fairlead.config import RewardSpec
from fairlead.scoring import check_reward
from fairlead.stages import StageContext
from fairlead.statistics import mean_interval
from fairlead_plugins.evaluators.answering import (
    Answering,
    SampledConfig,
    cluster_names,
    scores_of,
)


class TaskAccuracyConfig(SampledConfig):
    """Settings of `TaskAccuracyEvaluator`; those of the prompts are `SampledConfig`'s.

    Attributes:
        label: What the metrics are called.
        reward: What scores the responses.
        outcome: ``right``: whether the score reaches the threshold; ``score``: the score itself,
            so that the metric is the mean score.
        threshold: A response with this score or a higher one is right.
    """

    label: str = Field(default="task_accuracy", pattern=r"^\w+$")
    reward: RewardSpec
    outcome: Literal["right", "score"] = "right"
    threshold: float = 0.5


class TaskAccuracyEvaluator:
    """Measures ``eval/task_accuracy`` with its 95 % interval."""

    Config = TaskAccuracyConfig

    def __init__(self, config: TaskAccuracyConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config
        self.seed = context.seed("bootstrap")
        self.answering = Answering(config, context, tokenizer, "evaluation")
        self.reward = config.reward.build(context, tokenizer)

    @classmethod
    def preview(
        cls, config: TaskAccuracyConfig, context: StageContext, tokenizer: Any, model: Any
    ) -> str:
        """Check what can be checked without weights; returns what would be measured on."""
        check_reward(config.reward, context)
        prompts = Answering(config, context, tokenizer, "evaluation").prompts(model)
        cluster_names(prompts, config.cluster)
        return f"{len(prompts)} prompts"

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the metrics."""
        return dict(self.measure(model).metrics)

    def measure(self, model: nn.Module) -> Measurement:
        """Return one outcome a response; clusters are the prompts, or what ``cluster`` names."""
        cfg = self.config
        prompts = self.answering.sampled(model.config)
        outcomes = scores_of(self.answering.ask(model, prompts, self.reward))
        if cfg.outcome == "right":
            outcomes = [float(score >= cfg.threshold) for score in outcomes]
        clusters = cluster_names(prompts, cfg.cluster)
        interval = mean_interval(outcomes, clusters, seed=self.seed)
        return Measurement(interval.metrics(f"eval/{cfg.label}"), outcomes, clusters)
