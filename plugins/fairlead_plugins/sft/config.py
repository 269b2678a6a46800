"""Settings of the SFT stage."""

from __future__ import annotations

from pydantic import Field

from fairlead.config import (
    AuxiliaryLossSpec,
    Config,
    DataSourceSpec,
    EvaluatorSpec,
    OptimizerSpec,
    named,
)
from fairlead.encode import TrainOn
from fairlead.optim import LearningRate


class SftConfig(Config):
    """Settings of supervised fine-tuning. Defaults are the paper's where it has one.

    Attributes:
        model: ``stage:NAME``, a model directory or a hub name.
        source: Demonstrations; a preference pair gives its chosen response.
        train_on: ``last``: the loss is on the last assistant turn; ``all``: on each.
        epochs: Passes over the demonstrations (paper: 16; 2 for the model RL starts from).
        batch_size: Demonstrations an optimizer step (paper: 32).
        max_tokens: Longer demonstrations are left out, and counted (paper: 2,048).
        packing: Lay demonstrations end to end in rows of ``max_tokens``, none attending to
            another; else sort them by length and pad.
        lr: The learning rate (paper: 9.65e-6 at 1.3B and 6B, cosine to 10 %, no warm-up).
        residual_dropout: The paper's 0.2, for model families that have it (GPT-2, OPT,
            GPT-NeoX); families without it (Llama, Qwen) take 0.
        optimizer: Which optimizer.
        clip: Largest gradient norm, or None; the paper does not state one.
        auxiliary: Further losses, such as the pretraining mix ``ptx``.
        token_budget: Most tokens of a forward pass.
        evaluators: Measurements taken at the end of every epoch.
        select_by: Keep the epoch where this measurement is highest, such as ``eval/reward``
            (the paper selects by reward-model score, not by loss); None keeps the last.
        checkpoint_every: Steps between checkpoints; 0: only when stopped.
    """

    model: str
    source: DataSourceSpec
    train_on: TrainOn = "last"
    epochs: int = Field(default=16, ge=1)
    batch_size: int = Field(default=32, ge=1)
    max_tokens: int = Field(default=2048, ge=2)
    packing: bool = False
    lr: LearningRate = LearningRate(peak=9.65e-6)
    residual_dropout: float = Field(default=0.0, ge=0, lt=1)
    optimizer: OptimizerSpec = named("adamw")
    clip: float | None = Field(default=None, gt=0)
    auxiliary: list[AuxiliaryLossSpec] = []
    token_budget: int = Field(default=16384, ge=1)
    evaluators: list[EvaluatorSpec] = []
    select_by: str | None = None
    checkpoint_every: int = Field(default=500, ge=0)
