"""A weighted sum of rewards, each logged by name."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from fairlead.components import RewardBatch, Scores
from fairlead.config import Config, RewardSpec
from fairlead.errors import RewardError
from fairlead.scoring import check_reward, score
from fairlead.stages import StageContext


class Term(Config):
    """One reward of a sum.

    Attributes:
        reward: Which reward.
        weight: What it is multiplied by.
    """

    reward: RewardSpec
    weight: float = 1.0


class SumConfig(Config):
    """Settings of `SumReward`.

    Attributes:
        terms: The rewards by the name they are logged under.
    """

    terms: dict[str, Term] = Field(min_length=1)


class SumReward:
    """Adds rewards up."""

    Config = SumConfig

    def __init__(self, config: SumConfig, context: StageContext, tokenizer: Any) -> None:
        self.terms = {
            name: (term.weight, term.reward.build(context, tokenizer))
            for name, term in config.terms.items()
        }

    @classmethod
    def preview(cls, config: SumConfig, context: StageContext) -> None:
        """Check every term."""
        for term in config.terms.values():
            check_reward(term.reward, context)

    def score(self, batch: RewardBatch) -> Scores:
        """Return the weighted sum, and each term unweighted under its name."""
        total = torch.zeros(len(batch.tokens), device=batch.tokens.device)
        parts: dict[str, torch.Tensor] = {}
        for name, (weight, reward) in self.terms.items():
            try:
                scores = score(reward, batch)
            except RewardError as error:
                raise RewardError(f"the term {name!r} of the sum: {error}") from error
            parts[name] = scores.total.to(total.device)
            parts |= {f"{name}/{inner}": part for inner, part in scores.parts.items()}
            total = total + weight * parts[name]
        return Scores(total, parts)
