"""Language-model loss over microbatches, normalised by the whole batch's target tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairlead.data import (
    Packed,
    fill_rows,
    microbatches,
    pack,
    pad,
    pad_mask,
    segment_attention,
)
from fairlead.encode import Encoded
from fairlead.models import target_logprobs
from fairlead.optim import check_finite
from fairlead.strategy import Strategy


@dataclass(frozen=True)
class LmBatch:
    """One microbatch.

    Attributes:
        tokens: ``[B, S]`` int64.
        targets: ``[B, S]`` bool, True where a token is to be predicted.
        positions: ``[B, S]`` int64 where rows are packed, else None.
        attention: ``[B, 1, S, S]`` bool where rows are packed, else None.
        lengths: ``[B]`` int64 where rows are padded on the right, else None.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None = None
    attention: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def weight(self) -> int:
        """Target tokens."""
        return int(self.targets.sum())


def batch_examples(
    examples: Sequence[Encoded], token_budget: int, packed_width: int | None = None
) -> list[LmBatch]:
    """Cut examples into microbatches, by length or packed end to end.

    Args:
        examples: What to train on.
        token_budget: Most tokens of a microbatch, padding included.
        packed_width: Row length when packing; None sorts by length and pads instead.
    """
    if packed_width is None:
        groups = microbatches([len(example) for example in examples], token_budget)
        return [
            LmBatch(
                pad([examples[i].ids for i in group]),
                pad_mask([examples[i].targets for i in group]),
                lengths=torch.tensor([len(examples[i]) for i in group]),
            )
            for group in groups
        ]
    rows = fill_rows([len(example) for example in examples], packed_width)
    pairs = [(example.ids, example.targets) for example in examples]
    size = max(1, token_budget // packed_width)
    chunks = [pack(pairs, rows[start : start + size]) for start in range(0, len(rows), size)]
    return [_from_packed(chunk) for chunk in chunks]


def _from_packed(packed: Packed) -> LmBatch:
    return LmBatch(packed.tokens, packed.targets, packed.positions, packed.attention)


def backward(
    model: nn.Module,
    batches: Iterable[LmBatch],
    divisor: float,
    strategy: Strategy,
    *,
    what: str,
    step: int,
) -> float:
    """Add the gradient of ``sum of -log p(target) / divisor``; returns the sum.

    One divisor for all microbatches makes the loss independent of how they are cut
    (fidelity item 4).

    Raises:
        NonFiniteError: When the loss is NaN or infinite.
    """
    total = 0.0
    for batch in batches:
        loss = _negative_logprobs(model, batch, strategy).sum()
        total += check_finite(float(loss.detach()), what, step)
        (loss / divisor).backward()
    return total


def mean_loss(model: nn.Module, batches: Iterable[LmBatch], strategy: Strategy) -> float:
    """Return the mean of ``-log p(target)`` over all target tokens, in nats."""
    return measure_loss(model, batches, strategy)[0]


@torch.no_grad()
def measure_loss(
    model: nn.Module, batches: Iterable[LmBatch], strategy: Strategy
) -> tuple[float, list[float]]:
    """Return the mean of ``-log p(target)`` over all target tokens, and over each row's.

    In nats; rows are in the batches' order, and those without a target are left out. The model's
    mode is restored.
    """
    was_training = model.training
    model.eval()
    total = weight = 0.0
    rows: list[float] = []
    for batch in batches:
        losses = _negative_logprobs(model, batch, strategy)
        total += float(losses.sum())
        weight += batch.weight
        parts = losses.split(batch.targets.sum(1).tolist())
        rows += [float(part.mean()) for part in parts if len(part)]
    model.train(was_training)
    return (total / weight if weight else float("nan")), rows


def _negative_logprobs(model: nn.Module, batch: LmBatch, strategy: Strategy) -> Tensor:
    device = strategy.device
    tokens, targets = batch.tokens.to(device), batch.targets.to(device)
    positions = None if batch.positions is None else batch.positions.to(device)
    attention = None if batch.attention is None else batch.attention.to(device)
    lengths = None if batch.lengths is None else batch.lengths.to(device)
    with strategy.autocast():
        logprobs, _ = target_logprobs(model, tokens, targets, 1.0, positions, attention, lengths)
    return -logprobs


def block_batches(blocks: Tensor, segments: Tensor | None, token_budget: int) -> list[LmBatch]:
    """Cut pretraining blocks into microbatches; every token but a block's first is a target.

    Args:
        blocks: ``[N, S]`` int64.
        segments: ``[N, S]`` int64, to keep documents from attending to each other (positions
            then restart with each), or None.
        token_budget: Most tokens of a microbatch.
    """
    size = max(1, token_budget // blocks.shape[1])
    batches = []
    for start in range(0, len(blocks), size):
        tokens = blocks[start : start + size]
        targets = torch.ones_like(tokens, dtype=torch.bool)
        targets[:, 0] = False
        if segments is None:
            batches.append(LmBatch(tokens, targets))
            continue
        owners = segments[start : start + size]
        begins = torch.ones_like(targets)
        begins[:, 1:] = owners[:, 1:] != owners[:, :-1]
        index = torch.arange(tokens.shape[1]).expand_as(tokens)
        positions = index - torch.where(begins, index, 0).cummax(dim=1).values
        # The first token of a document has nothing of its own to be predicted from.
        batches.append(LmBatch(tokens, targets & ~begins, positions, segment_attention(owners)))
    return batches
