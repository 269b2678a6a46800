"""People who rank answers: each to a taste, through noise, and rating in steps."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Annotated, Protocol

from pydantic import Field

from fairlead.config import ComponentOf, Config, Spec
from fairlead_plugins.miniworld.gold import GOLD, Taste, judge
from fairlead_plugins.miniworld.world import Task

LabelerSpec = Annotated[Spec, ComponentOf("labelers")]


class Labeler(Protocol):
    """``Labeler(config)``, registered by the hook ``register_labelers``."""

    def rank(self, task: Task, responses: Sequence[str], rng: Random) -> tuple[float, ...]:
        """Rank K answers.

        Args:
            task: What was asked.
            responses: K answers.
            rng: Where this person's mistakes come from.

        Returns:
            K ranks, lower is better; equal ranks are a tie.
        """
        ...


class NoisyConfig(Config):
    """Settings of ``noisy``.

    Attributes:
        noise: Standard deviation of what is added to how good an answer is. At the default two
            labelers agree on about 73 % of the pairs that neither ties (paper: 72.6 %).
        step: Ratings are rounded to a multiple of this, so that near-equal answers tie; 0:
            none do.
        taste: What is good.
    """

    noise: float = Field(default=1.35, ge=0)
    step: float = Field(default=0.25, ge=0)
    taste: Taste = GOLD


class NoisyLabeler:
    """Ranks by taste plus noise."""

    Config = NoisyConfig

    def __init__(self, config: NoisyConfig) -> None:
        self.config = config

    def rank(self, task: Task, responses: Sequence[str], rng: Random) -> tuple[float, ...]:
        """Rank K answers by rating each."""
        ratings = [self._rate(judge(task, text, self.config.taste), rng) for text in responses]
        order = sorted(set(ratings), reverse=True)
        return tuple(float(order.index(rating)) for rating in ratings)

    def _rate(self, goodness: float, rng: Random) -> float:
        seen = goodness + rng.gauss(0.0, self.config.noise)
        return round(seen / self.config.step) * self.config.step if self.config.step else seen
