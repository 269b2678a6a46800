"""Settings of the reward-model stage and its loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairlead.config import Config, DataSourceSpec, OptimizerSpec, PreferenceLossSpec, named
from fairlead.optim import LearningRate


class RankingLossConfig(Config):
    """Settings of the ranking loss.

    Attributes:
        divisor: What a prompt's pair losses are divided by: the ``pairs`` that are kept, or
            ``all`` K-choose-2 of them, ties included. The paper says 1/C(K,2) and drops ties.
    """

    divisor: Literal["pairs", "all"] = "pairs"


class RewardModelConfig(Config):
    """Settings of the reward model. Defaults are the paper's where it has one.

    Attributes:
        model: The language model to start from: ``stage:NAME``, a directory or a hub name.
            The paper reports similar results from the plain LM and from the SFT model.
        source: Prompts with ranked responses.
        demonstrations: What the saved bias brings to a mean score of 0; None: the best
            response of each training prompt.
        loss: The preference loss.
        epochs: Passes over the prompts (paper: one; it overfits after).
        batch_size: Prompts an optimizer step, all their pairs together (paper: 64).
        max_tokens: Prompts with a longer response are left out, and counted.
        lr: The learning rate (paper: 9e-6, cosine to 10 %).
        optimizer: Which optimizer.
        clip: Largest gradient norm, or None.
        token_budget: Most tokens of a forward pass.
        evaluate_every: Steps between measurements on the held-out prompts.
        checkpoint_every: Steps between checkpoints; 0: only when stopped.
    """

    model: str
    source: DataSourceSpec
    demonstrations: DataSourceSpec | None = None
    loss: PreferenceLossSpec = named("ranking")
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    max_tokens: int = Field(default=2048, ge=2)
    lr: LearningRate = LearningRate(peak=9e-6)
    optimizer: OptimizerSpec = named("adamw")
    clip: float | None = Field(default=None, gt=0)
    token_budget: int = Field(default=16384, ge=1)
    evaluate_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=100, ge=0)
