"""A reward model trained here: it reads the sampled ids themselves."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from fairlead.components import RewardBatch, Scores
from fairlead.config import Config
from fairlead.data import device_microbatches
from fairlead.ragged import takes_ragged
from fairlead.scalar import check_is_scalar, load_scalar
from fairlead.stages import StageContext
from fairlead.tokenizers import check_same_vocabulary, load_tokenizer


class RewardModelConfig(Config):
    """Settings of `RewardModelReward`.

    Attributes:
        model: ``stage:NAME`` or a directory written by an rm stage.
        token_budget: Most tokens of a forward pass.
    """

    model: str
    token_budget: int = Field(default=16384, ge=1)


class RewardModelReward:
    """Scores token ids with a reward model that shares the policy's vocabulary.

    Raises:
        ConfigError: When the vocabulary is another one, by ids.
    """

    Config = RewardModelConfig

    def __init__(self, config: RewardModelConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config
        trust = context.config.trust_remote_code
        location = context.locate(config.model)
        theirs = load_tokenizer(location, trust_remote_code=trust)
        check_same_vocabulary(tokenizer, theirs, f"the reward model {config.model!r}")
        self.strategy = context.strategy
        self.model = load_scalar(location, context.strategy, trained=False, trust_remote_code=trust)
        self.strategy.set_aside(self.model)

    @classmethod
    def preview(cls, config: RewardModelConfig, context: StageContext) -> None:
        """Check that it is a reward model."""
        check_is_scalar(config.model, context.model_config(config.model))

    @torch.no_grad()
    def score(self, batch: RewardBatch) -> Scores:
        """Return the scalar at each response's last token, bias included."""
        lengths = batch.prompt_lengths + batch.response_lengths
        budget, device = self.config.token_budget, batch.tokens.device
        scores = torch.zeros(len(lengths), device=device)
        ragged = takes_ragged(self.model.model, batch.tokens.shape[1])
        with self.strategy.at_hand(self.model):
            for group in device_microbatches(lengths.tolist(), budget, device, ragged):
                rows = torch.tensor(group, device=device)
                tokens = batch.tokens[rows, : int(lengths[rows].max())]
                with self.strategy.autocast():
                    scores[rows] = self.model.at_last_token(tokens, lengths[rows])
        return Scores(scores)
