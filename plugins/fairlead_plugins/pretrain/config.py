"""Settings of the pretraining stage and of the pretraining mix."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairlead.config import Config, DataSourceSpec, EvaluatorSpec, OptimizerSpec, named
from fairlead.optim import LearningRate
from fairlead.scratch import Scratch
from fairlead.tokenizers import TokenizerSettings


class PretrainConfig(Config):
    """Settings of the pretraining stage.

    Attributes:
        model: A model directory or hub name to go on from, or a model to make from nothing.
        tokenizer: A directory or hub name, or the settings to train one on this stage's
            text; only read when the model is made from nothing.
        source: The text. Richer records are read as text: a preference pair gives its
            prompt with the chosen response.
        steps: Optimizer steps.
        batch_size: Blocks a step.
        block_tokens: Tokens of a block.
        document_mask: Keep tokens from attending across documents in a block; off, as
            GPT-3's text was.
        lr: The learning rate.
        optimizer: Which optimizer.
        clip: Largest gradient norm, or None.
        token_budget: Most tokens of a forward pass.
        evaluate_every: Steps between measurements on the held-out documents.
        heldout_blocks: Most blocks measured on.
        evaluators: Further measurements, taken at the same steps.
        checkpoint_every: Steps between checkpoints; 0: only when stopped.
    """

    model: str | Scratch
    tokenizer: str | TokenizerSettings = TokenizerSettings()
    source: DataSourceSpec
    steps: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    block_tokens: int = Field(default=256, ge=2)
    document_mask: bool = False
    lr: LearningRate = LearningRate(peak=1e-3)
    optimizer: OptimizerSpec = named("adamw")
    clip: float | None = Field(default=1.0, gt=0)
    token_budget: int = Field(default=16384, ge=1)
    evaluate_every: int = Field(default=100, ge=1)
    heldout_blocks: int = Field(default=64, ge=0)
    evaluators: list[EvaluatorSpec] = []
    checkpoint_every: int = Field(default=500, ge=0)


class PretrainingLossConfig(Config):
    """Settings of the pretraining mix, ``ptx``.

    Attributes:
        source: The pretraining text.
        block_tokens: Tokens of one pretraining example.
        coefficient: What the loss is multiplied by. The paper's 27.8 is for PPO-ptx, and
            means something only together with ``normalise``, which the paper leaves open.
        ratio: Pretraining examples for each episode or demonstration; the paper: 8 in RL,
            0.1 in the SFT that RL starts from.
        ratio_of: ``examples``, or ``tokens``: pretraining tokens for each target token.
        normalise: ``token_mean`` divides by the pretraining tokens of the step;
            ``sequence_sum`` by its blocks, the objective read literally; ``as_main`` by the
            main loss's target tokens, so that a pretraining token weighs what a token of the
            main data does: plain mixing.
        document_mask: As in pretraining.
        token_budget: Most tokens of a forward pass.
    """

    source: DataSourceSpec
    block_tokens: int = Field(default=256, ge=2)
    coefficient: float = Field(default=27.8, gt=0)
    ratio: float = Field(default=8.0, gt=0)
    ratio_of: Literal["examples", "tokens"] = "examples"
    normalise: Literal["token_mean", "sequence_sum", "as_main"] = "token_mean"
    document_mask: bool = False
    token_budget: int = Field(default=16384, ge=1)
