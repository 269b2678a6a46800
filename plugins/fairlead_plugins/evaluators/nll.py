"""The language-model loss on held-out text: what alignment costs elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from fairlead import lm
from fairlead.components import Measurement
from fairlead.config import Config, DataSourceSpec
from fairlead.data import cut_blocks
from fairlead.encode import Encoder
from fairlead.records import Text
from fairlead.stages import StageContext


class NllConfig(Config):
    """Settings of `NllEvaluator`.

    Attributes:
        label: What the metric is called; two of these in one stage need two labels.
        source: The text.
        part: Which side of the run's split.
        block_tokens: Tokens of a block.
        blocks: Most blocks measured on.
        document_mask: Keep the documents of a block from attending to each other.
        token_budget: Most tokens of a forward pass.
    """

    label: str = Field(default="nll", pattern=r"^\w+$")
    source: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    block_tokens: int = Field(default=256, ge=2)
    blocks: int = Field(default=64, ge=1)
    document_mask: bool = False
    token_budget: int = Field(default=16384, ge=1)


class NllEvaluator:
    """Measures ``eval/nll``: nats a token on packed text.

    The metric is the mean over tokens. An outcome is a block's mean, so that with a document mask,
    where blocks have different numbers of targets, the outcomes' mean may differ a little.
    """

    Config = NllConfig

    def __init__(self, config: NllConfig, context: StageContext, tokenizer: Any) -> None:
        self.name = f"eval/{config.label}"
        self.strategy = context.strategy
        self.batches = _batches(config, context, tokenizer)

    @classmethod
    def preview(cls, config: NllConfig, context: StageContext, tokenizer: Any, model: Any) -> str:
        """Tokenise the text; returns what would be measured on."""
        rows = sum(len(batch.tokens) for batch in _batches(config, context, tokenizer))
        return f"{rows} blocks of {config.block_tokens} tokens"

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the loss."""
        return dict(self.measure(model).metrics)

    def measure(self, model: nn.Module) -> Measurement:
        """Return the loss, and each block's as its outcome."""
        loss, outcomes = lm.measure_loss(model, self.batches, self.strategy)
        return Measurement({self.name: loss}, outcomes)


def _batches(config: NllConfig, context: StageContext, tokenizer: Any) -> list[lm.LmBatch]:
    encoder = Encoder(tokenizer)
    records = context.records(config.source, Text, config.part)
    blocks, segments = cut_blocks(
        [encoder.text(record) for record in records], encoder.eos, config.block_tokens
    )
    kept = segments[: config.blocks] if config.document_mask else None
    return lm.block_batches(blocks[: config.blocks], kept, config.token_budget)
