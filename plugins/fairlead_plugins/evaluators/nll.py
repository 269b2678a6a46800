"""The language-model loss on held-out text: what alignment costs elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from fairlead import lm
from fairlead.config import Config, DataSourceSpec
from fairlead.data import cut_blocks
from fairlead.encode import Encoder
from fairlead.records import Text
from fairlead.stages import StageContext


class NllConfig(Config):
    """Settings of `NllEvaluator`.

    Attributes:
        source: The text.
        part: Which side of the run's split.
        block_tokens: Tokens of a block.
        blocks: Most blocks measured on.
        token_budget: Most tokens of a forward pass.
    """

    source: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    block_tokens: int = Field(default=256, ge=2)
    blocks: int = Field(default=64, ge=1)
    token_budget: int = Field(default=16384, ge=1)


class NllEvaluator:
    """Measures ``eval/nll``: nats a token on packed text."""

    Config = NllConfig

    def __init__(self, config: NllConfig, context: StageContext, tokenizer: Any) -> None:
        self.strategy = context.strategy
        encoder = Encoder(tokenizer)
        records = context.records(config.source, Text, config.part)
        blocks, _ = cut_blocks(
            [encoder.text(record) for record in records], encoder.eos, config.block_tokens
        )
        self.batches = lm.block_batches(blocks[: config.blocks], None, config.token_budget)

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the loss."""
        return {"eval/nll": lm.mean_loss(model, self.batches, self.strategy)}
