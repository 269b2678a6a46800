"""The reward on a fixed set of held-out prompts, paired with the start."""

from __future__ import annotations

import json
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from fairlead.checkpoint import write_atomically
from fairlead.config import Config, DataSourceSpec, RewardSpec, RolloutBackendSpec, named
from fairlead.records import Prompt
from fairlead.respond import fitting_prompts, respond
from fairlead.stages import StageContext
from fairlead.tokenizers import stop_token_ids


class RewardEvaluatorConfig(Config):
    """Settings of `RewardEvaluator`.

    Attributes:
        label: What the metrics are called; two of these in one stage need two labels.
        prompts: Where prompts come from.
        part: Which side of the run's split.
        reward: What scores the responses.
        count: Prompts to use; the first that leave room for a response.
        max_new_tokens: Longest response.
        temperature: 1 draws from the policy; 0 is greedy.
        stop_tokens: As in rollouts.
        backend: Who generates.
        token_budget: Most tokens of a forward pass.
    """

    label: str = Field(default="reward", pattern=r"^\w+$")
    prompts: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    reward: RewardSpec
    count: int = Field(default=64, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    stop_tokens: list[str] | None = None
    backend: RolloutBackendSpec = named("hf")
    token_budget: int = Field(default=16384, ge=1)


class RewardEvaluator:
    """Measures ``eval/reward`` with its standard error, and the gain on the start.

    The prompts and the random numbers are the same every time, so the gain is a mean of
    paired differences and its standard error is theirs.
    """

    Config = RewardEvaluatorConfig

    def __init__(
        self, config: RewardEvaluatorConfig, context: StageContext, tokenizer: Any
    ) -> None:
        self.config = config
        self.context = context
        self.tokenizer = tokenizer
        self.records = context.records(config.prompts, Prompt, config.part)
        self.reward = config.reward.build(context, tokenizer)
        self.backend = config.backend.build()
        self.stop = stop_token_ids(tokenizer, config.stop_tokens)
        # Beside the metrics, so that a resumed run is paired with the same start.
        self.start_file = context.directory / f"eval_{config.label}_start.json"

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the metrics at this step; step 0 is the start."""
        cfg = self.config
        prompts = fitting_prompts(
            self.records, self.tokenizer, model.config, cfg.max_new_tokens, cfg.count
        )
        scores = respond(
            model,
            prompts,
            self.backend,
            self.reward,
            self.tokenizer,
            self.context.strategy,
            max_new_tokens=cfg.max_new_tokens,
            stop_token_ids=self.stop,
            temperature=cfg.temperature,
            seed=self.context.seed("evaluation"),
            token_budget=cfg.token_budget,
        ).scores
        if scores is None:
            raise RuntimeError("respond() was given a reward and returned no scores")
        name = f"eval/{cfg.label}"
        metrics = {name: float(scores.mean()), f"{name}_se": _standard_error(scores)}
        if step == 0:
            write_atomically(self.start_file, json.dumps(scores.tolist()))
        elif self.start_file.is_file():
            gain = scores - torch.tensor(json.loads(self.start_file.read_text()))
            metrics[f"{name}_gain"] = float(gain.mean())
            metrics[f"{name}_gain_se"] = _standard_error(gain)
        return metrics


def _standard_error(values: torch.Tensor) -> float:
    return float(values.double().std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
