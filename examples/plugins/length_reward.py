"""A text reward as a one-file plugin: responses near a wanted number of words score best.

Use it with::

    fairlead ppo --config run.yaml --plugin examples/plugins/length_reward.py \
        'ppo.reward={name: length, words: 20}'
"""

from typing import Any

import torch
from pydantic import Field

from fairlead import hookimpl
from fairlead.components import RewardBatch, Scores
from fairlead.config import Config
from fairlead.registry import Register
from fairlead.stages import StageContext


class LengthConfig(Config):
    """How many words a response should have, and what each word off costs."""

    words: int = Field(default=20, ge=1)
    cost: float = Field(default=0.1, gt=0)


class LengthReward:
    """Scores decoded text: 1 at the wanted length, less by `cost` for each word off it."""

    Config = LengthConfig

    def __init__(self, config: LengthConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config

    def score(self, batch: RewardBatch) -> Scores:
        """Return one score for each response, and the lengths for the log."""
        words = torch.tensor([float(len(response.split())) for response in batch.responses])
        return Scores(1 - self.config.cost * (words - self.config.words).abs(), {"words": words})


@hookimpl
def register_reward_models(register: Register) -> None:
    """Register ``length``."""
    register("length", LengthReward)
