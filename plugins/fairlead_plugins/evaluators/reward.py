"""The reward on a fixed set of held-out prompts, paired with the start."""

from __future__ import annotations

import json
from typing import Any

import torch
from pydantic import Field
from torch import nn

from fairlead.checkpoint import write_atomically
from fairlead.components import Measurement
from fairlead.config import RewardSpec
from fairlead.scoring import check_reward
from fairlead.stages import StageContext
from fairlead_plugins.evaluators.answering import (
    AnswerConfig,
    Answering,
    cluster_names,
    scores_of,
)


class RewardEvaluatorConfig(AnswerConfig):
    """Settings of `RewardEvaluator`; those of the prompts are `AnswerConfig`'s.

    Attributes:
        label: What the metrics are called; two of these in one stage need two labels.
        reward: What scores the responses.
        count: Prompts to use; the first that leave room for a response.
    """

    label: str = Field(default="reward", pattern=r"^\w+$")
    reward: RewardSpec
    count: int = Field(default=64, ge=2)


class RewardEvaluator:
    """Measures ``eval/reward`` with its standard error, and the gain on the start.

    The prompts and the random numbers are the same every time, so the gain is a mean of
    paired differences and its standard error is theirs.
    """

    Config = RewardEvaluatorConfig

    def __init__(
        self, config: RewardEvaluatorConfig, context: StageContext, tokenizer: Any
    ) -> None:
        self.name = f"eval/{config.label}"
        self.answering = Answering(config, context, tokenizer, "evaluation")
        self.reward = config.reward.build(context, tokenizer)
        # Beside the metrics, so that a resumed run is paired with the same start.
        self.start_file = context.directory / f"eval_{config.label}_start.json"

    @classmethod
    def preview(
        cls, config: RewardEvaluatorConfig, context: StageContext, tokenizer: Any, model: Any
    ) -> str:
        """Check what can be checked without weights; returns what would be measured on."""
        check_reward(config.reward, context)
        prompts = Answering(config, context, tokenizer, "evaluation").prompts(model)
        return f"{len(prompts)} prompts"

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the metrics at this step, with the gain on step 0, the start."""
        found = self.measure(model)
        metrics = dict(found.metrics)
        scores = torch.tensor(found.outcomes)
        if step == 0:
            write_atomically(self.start_file, json.dumps(scores.tolist()))
        elif self.start_file.is_file():
            gain = scores - torch.tensor(json.loads(self.start_file.read_text()))
            metrics[f"{self.name}_gain"] = float(gain.mean())
            metrics[f"{self.name}_gain_se"] = _standard_error(gain)
        return metrics

    def measure(self, model: nn.Module) -> Measurement:
        """Return the mean score with its standard error; one outcome a prompt, its score."""
        prompts = self.answering.prompts(model.config)
        outcomes = scores_of(self.answering.ask(model, prompts, self.reward))
        scores = torch.tensor(outcomes)
        metrics = {self.name: float(scores.mean()), f"{self.name}_se": _standard_error(scores)}
        return Measurement(metrics, outcomes, cluster_names(prompts, None))


def _standard_error(values: torch.Tensor) -> float:
    return float(values.double().std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
