"""People who rank answers: they see the gold score through noise, and rate in steps."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pydantic import Field

from fairlead.config import Config


class LabelerConfig(Config):
    """Settings of `Labeler`.

    Attributes:
        noise: Standard deviation of what a labeler adds to a gold score. At the default two
            labelers agree on about 73 % of the pairs that neither ties (paper: 72.6 %).
        step: Ratings are rounded to a multiple of this, so that near-equal answers tie; 0:
            none do.
    """

    noise: float = Field(default=1.5, ge=0)
    step: float = Field(default=0.25, ge=0)


class Labeler:
    """Ranks answers by gold score plus noise."""

    Config = LabelerConfig

    def __init__(self, config: LabelerConfig) -> None:
        self.config = config

    def rank(self, scores: Sequence[float], rng: Random) -> tuple[float, ...]:
        """Rank K answers.

        Args:
            scores: Their gold scores.
            rng: Where this labeler's noise comes from.

        Returns:
            K ranks from 0, lower is better; equal ranks are a tie.
        """
        ratings = [self._rate(score, rng) for score in scores]
        order = sorted(set(ratings), reverse=True)
        return tuple(float(order.index(rating)) for rating in ratings)

    def _rate(self, score: float, rng: Random) -> float:
        seen = score + rng.gauss(0.0, self.config.noise)
        return round(seen / self.config.step) * self.config.step if self.config.step else seen
