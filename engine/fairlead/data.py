"""Order, batches and packing: pure functions of (seed, cursor) and of lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.errors import DataError


class DataFeed:
    """An endless shuffled stream over ``size`` items, whose only state is one integer.

    Item ``c`` of the stream is ``permutation(seed, c // size)[c % size]``, so the order does
    not depend on batch sizes or on where a run was interrupted.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise DataError(
                "there is no data to train on: the source gave no record that can be used here. "
                "Look at the limits on length and at the share held out."
            )
        self.size = size
        self.seed = seed
        self.cursor = 0
        self._epoch = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next ``count`` item indices and move on."""
        indices = [self._at(self.cursor + offset) for offset in range(count)]
        self.cursor += count
        return indices

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._order = torch.randperm(self.size, generator=generator).tolist()
            self._epoch = epoch
        return self._order[offset]

    def state(self) -> dict[str, float]:
        """Return the cursor, and the size that gives it its meaning."""
        return {"cursor": self.cursor, "size": self.size}

    def restore(self, state: Mapping[str, float]) -> None:
        """Set the cursor.

        Raises:
            DataError: When the data has another size than the state was taken with.
        """
        if int(state["size"]) != self.size:
            raise DataError(
                f"the checkpoint was written with {int(state['size'])} examples to train on, and "
                f"there are {self.size} now: the order would be another one. Resume with the data "
                "the run was begun with, or start a new run."
            )
        self.cursor = int(state["cursor"])


_CPU_TOKENS, _CPU_PADDING = 2048, 64


def device_microbatches(
    lengths: Sequence[int], token_budget: int, device: torch.device, ragged: bool = False
) -> list[list[int]]:
    """Cut items into microbatches as `microbatches` does, as a device likes them.

    A GPU takes as many tokens at a time as fit. A CPU takes at most 2,048: with more, activations
    leave its caches, and the fresh memory for them costs more than larger matrix products gain.
    And it takes one more pass rather than 64 tokens of padding, which cost as much.
    """
    if device.type != "cpu":
        return microbatches(lengths, token_budget, ragged=ragged)
    budget, padding = min(token_budget, _CPU_TOKENS), None if ragged else _CPU_PADDING
    return microbatches(lengths, budget, padding=padding, ragged=ragged)


def microbatches(
    lengths: Sequence[int],
    token_budget: int,
    rows: Sequence[int] | None = None,
    padding: int | None = None,
    ragged: bool = False,
) -> list[list[int]]:
    """Cut items into microbatches of similar length that fit a token budget.

    Args:
        lengths: Length of each item, in tokens.
        token_budget: Most tokens of one microbatch, padding included. An item longer than
            the budget stands alone.
        rows: Rows each item takes up, its K responses say; default one each.
        padding: Most tokens of padding in one microbatch; None: no limit but the budget.
        ragged: Whether the model runs without padding, so that it takes none of the budget.

    Returns:
        Lists of indices; every index once; longest first, so that a run that does not fit
        in memory fails at its first step.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    height = waste = 0
    for index in order:
        more = rows[index] if rows is not None else 1
        width = lengths[batches[-1][0]] if batches else 0
        waste += more * (width - lengths[index])
        tokens = width * (height + more) - (waste if ragged else 0)
        fits = tokens <= token_budget and (padding is None or waste <= padding)
        if batches and fits:
            batches[-1].append(index)
            height += more
        else:
            batches.append([index])
            height, waste = more, 0
    return batches


def pad(sequences: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Stack id sequences into ``[B, S]`` int64, padded on the right.

    What the padding holds does not matter: attention is causal and every read is by length.
    """
    width = max((len(sequence) for sequence in sequences), default=0)
    padded = torch.full((len(sequences), width), fill, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.int64)
    return padded


def pad_mask(masks: Sequence[Sequence[bool]]) -> Tensor:
    """Stack boolean rows into ``[B, S]``, False on the right."""
    return pad([[int(flag) for flag in mask] for mask in masks]).bool()


@dataclass(frozen=True)
class Packed:
    """Examples laid end to end in rows.

    Attributes:
        tokens: ``[B, S]`` int64.
        targets: ``[B, S]`` bool, True where a token is to be predicted.
        positions: ``[B, S]`` int64, restarting with each example.
        attention: ``[B, 1, S, S]`` bool, causal and within one example.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    attention: Tensor


def pack(
    examples: Sequence[tuple[Sequence[int], Sequence[bool]]], rows: Sequence[Sequence[int]]
) -> Packed:
    """Lay examples end to end so that none attends to another (fidelity item 3).

    Args:
        examples: (ids, target mask) pairs.
        rows: For each row, the examples it holds, as from `fill_rows`.
    """
    ids = [[token for i in row for token in examples[i][0]] for row in rows]
    targets = [[flag for i in row for flag in examples[i][1]] for row in rows]
    positions = [[p for i in row for p in range(len(examples[i][0]))] for row in rows]
    # Segment numbers start at 1, so that padding (0) is a segment of its own.
    segments = [[number for number, i in enumerate(row, 1) for _ in examples[i][0]] for row in rows]
    return Packed(pad(ids), pad_mask(targets), pad(positions), segment_attention(pad(segments)))


def segment_attention(segments: Tensor) -> Tensor:
    """Return the ``[B, 1, S, S]`` mask that is causal and stays within a segment."""
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()[:, None]


def fill_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put items into rows of at most ``width`` tokens, first fit by falling length."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fit = next((r for r, room in enumerate(free) if room >= lengths[index]), None)
        if fit is None:
            rows.append([index])
            free.append(max(0, width - lengths[index]))
        else:
            rows[fit].append(index)
            free[fit] -= lengths[index]
    return rows


def cut_blocks(
    documents: Sequence[Sequence[int]], separator: int, width: int
) -> tuple[Tensor, Tensor]:
    """Lay documents end to end, a separator after each, and cut blocks (fidelity item 3).

    Args:
        documents: Token ids of each document.
        separator: The end-of-text token.
        width: Tokens a block.

    Returns:
        ``tokens`` and ``segments``, ``[N, width]`` int64 each; a segment number names the
        document a token is of, and the tail that fills no block is left out.

    Raises:
        DataError: When the text is shorter than one block.
    """
    stream: list[int] = []
    owner: list[int] = []
    for number, document in enumerate(documents, 1):
        stream += [*document, separator]
        owner += [number] * (len(document) + 1)
    blocks = len(stream) // width
    if blocks == 0:
        raise DataError(
            f"the pretraining text has {len(stream)} tokens, fewer than one block of {width}. "
            "Give more text, or lower the block length."
        )
    tokens = torch.tensor(stream[: blocks * width]).view(blocks, width)
    segments = torch.tensor(owner[: blocks * width]).view(blocks, width)
    return tokens, segments
