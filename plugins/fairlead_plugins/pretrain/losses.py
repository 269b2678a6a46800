"""The pretraining mix: the ``ptx`` of PPO-ptx, and of the SFT that RL starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from fairlead.data import DataFeed, cut_blocks
from fairlead.encode import Encoder
from fairlead.lm import backward, block_batches
from fairlead.records import Text
from fairlead.stages import StageContext
from fairlead_plugins.pretrain.config import PretrainingLossConfig


class PretrainingLoss:
    """``gamma * E_pretrain[-log pi(x)]`` (paper, equation 2), with data of its own."""

    Config = PretrainingLossConfig

    def __init__(
        self, config: PretrainingLossConfig, context: StageContext, tokenizer: Any
    ) -> None:
        self.config = config
        self.strategy = context.strategy
        encoder = Encoder(tokenizer)
        documents = [encoder.text(record) for record in context.records(config.source, Text)]
        self.blocks, self.segments = cut_blocks(documents, encoder.eos, config.block_tokens)
        self.feed = DataFeed(len(self.blocks), context.seed("ptx"))
        self.owed = 0.0
        self.step = 0

    def backward(
        self, model: nn.Module, examples: int, tokens: int
    ) -> dict[str, tuple[float, float]]:
        """Add the pretraining gradient of one optimizer step (fidelity item 24)."""
        self.step += 1
        blocks = self.feed.take(self._due(examples, tokens))
        if not blocks:
            return {}
        batches = block_batches(
            self.blocks[blocks],
            self.segments[blocks] if self.config.document_mask else None,
            self.config.token_budget,
        )
        count = sum(batch.weight for batch in batches)
        divisor = {"token_mean": count, "sequence_sum": len(blocks), "as_main": tokens}[
            self.config.normalise
        ]
        total = backward(
            model,
            batches,
            divisor / self.config.coefficient,
            self.strategy,
            what="the pretraining loss (ptx)",
            step=self.step,
        )
        return {"loss/ptx": (total, count)}

    def _due(self, examples: int, tokens: int) -> int:
        """Return how many blocks this step takes; fractions are carried over, not lost."""
        of_tokens = self.config.ratio_of == "tokens"
        amount = tokens / self.config.block_tokens if of_tokens else examples
        self.owed += self.config.ratio * amount
        # 0.1 thirty times is 2.9999999999999996: rounding must not lose a block.
        whole = math.floor(self.owed + 1e-9)
        self.owed -= whole
        return whole

    def state(self) -> dict[str, float]:
        """Return the cursor, the fraction owed and the step."""
        return {**self.feed.state(), "owed": self.owed, "step": self.step}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up a saved state."""
        self.feed.restore(state)
        self.owed, self.step = state["owed"], int(state["step"])
