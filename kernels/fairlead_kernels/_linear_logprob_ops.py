"""`linear_logprobs` as a torch operation: the library's matrix products around the block kernels.

The vocabulary goes by in chunks of tokens, and within one the batch in chunks of rows. So each
part of the weight is read once, its gradient is written once, and what is added up over the chunks
of tokens is the gradient of `hidden`, which is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels._logprob_ops import STATS, Block, Blocks, outputs, plain
from fairlead_kernels._torch_op import Operation, define

__all__ = ["Chunks", "define_linear_logprobs"]

# More rows than this do not make a matrix product faster; fewer tokens make it slower.
_MOST_ROWS = 4096
_FEWEST_TOKENS = 64


@dataclass(frozen=True)
class Chunk:
    """Rows `[row, row_end)` by tokens `[token, token_end)`, the `index`-th of all."""

    index: int
    row: int
    row_end: int
    token: int
    token_end: int

    def shape(self) -> tuple[int, int]:
        return self.row_end - self.row, self.token_end - self.token


@dataclass(frozen=True)
class Chunks:
    """How `[rows, vocabulary]` logits are cut up.

    Attributes:
        rows: Of the batch.
        vocabulary: Tokens.
        high: Rows of a chunk, fewer in the last.
        wide: Tokens of a chunk, fewer in the last.
        kept: How many chunks, the first ones, the forward keeps for the backward.
    """

    rows: int
    vocabulary: int
    high: int
    wide: int
    kept: int

    @staticmethod
    def plan(rows: int, vocabulary: int, itemsize: int, memory: int, keep: bool) -> Chunks:
        """Chunks of a quarter of `memory` bytes; the rest is for those that are kept."""
        area = max(memory // 4 // itemsize, 1)
        high = max(min(rows, _MOST_ROWS, area // _FEWEST_TOKENS), 1)
        wide = min(max(area // high, _FEWEST_TOKENS), vocabulary)
        # As many chunks as that takes, but of one size.
        count = -(-vocabulary // wide)
        wide = min(-(-vocabulary // (count * _FEWEST_TOKENS)) * _FEWEST_TOKENS, wide)
        total = -(-vocabulary // wide) * -(-rows // high)
        kept = min((memory - memory // 4) // (high * wide * itemsize), total) if keep else 0
        return Chunks(rows, vocabulary, high, wide, kept)

    def __iter__(self) -> Iterator[Chunk]:
        index = 0
        for token in range(0, self.vocabulary, self.wide):
            token_end = min(token + self.wide, self.vocabulary)
            for row in range(0, self.rows, self.high):
                yield Chunk(index, row, min(row + self.high, self.rows), token, token_end)
                index += 1

    def area(self) -> int:
        """Logits of the largest chunk."""
        return self.high * self.wide

    def kept_logits(self, kept: Tensor, chunk: Chunk) -> Tensor | None:
        """Where a chunk's logits are kept, or None."""
        if chunk.index >= self.kept:
            return None
        return _within(kept[chunk.index * self.area() :], chunk)


def _within(buffer: Tensor, chunk: Chunk) -> Tensor:
    rows, cols = chunk.shape()
    return buffer[: rows * cols].view(rows, cols)


@dataclass(frozen=True)
class Head:
    """The operation's inputs, and where its logits go."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    temperature: float

    def logits(self, chunk: Chunk, out: Tensor) -> Tensor:
        hidden = self.hidden[chunk.row : chunk.row_end]
        part = self.weight[chunk.token : chunk.token_end].t()
        if self.bias is None:
            return torch.mm(hidden, part, out=out)
        return torch.addmm(self.bias[chunk.token : chunk.token_end], hidden, part, out=out)

    def block(self, chunk: Chunk, logits: Tensor) -> Block:
        labels = self.labels[chunk.row : chunk.row_end]
        return Block(logits, labels, chunk.token, self.weight.shape[0], self.temperature)

    def chunks(self, memory: int, keep: bool) -> Chunks:
        rows, vocabulary = self.hidden.shape[0], self.weight.shape[0]
        return Chunks.plan(rows, vocabulary, self.hidden.element_size(), memory, keep)


def _run_forward(
    blocks: Blocks, head: Head, memory: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chunks = head.chunks(memory, keep)
    dtype, device = head.hidden.dtype, head.hidden.device
    results = outputs(head.labels)
    state = torch.empty(head.hidden.shape[0], STATS, dtype=blocks.state, device=device)
    kept = blocks.empty((chunks.kept * chunks.area(),), dtype, device)
    buffer = blocks.empty((chunks.area(),), dtype, device)
    for chunk in chunks:
        place = chunks.kept_logits(kept, chunk)
        logits = head.logits(chunk, _within(buffer, chunk) if place is None else place)
        rows = slice(chunk.row, chunk.row_end)
        blocks.forward(head.block(chunk, logits), state[rows], *(one[rows] for one in results))
    return *results, kept


class _Gradients:
    """The sums of the backward, in float32 where the inputs are not."""

    def __init__(self, blocks: Blocks, head: Head, wanted: tuple[bool, bool, bool]) -> None:
        self.head = head
        self.wanted = wanted
        hidden, weight = head.hidden, head.weight
        self.exact = hidden.dtype == torch.float32
        empty, device = blocks.empty, hidden.device
        self.hidden = torch.zeros(
            hidden.shape if wanted[0] else (0,), dtype=torch.float32, device=device
        )
        self.weight = empty(tuple(weight.shape) if wanted[1] else (0,), weight.dtype, device)
        self.bias = torch.zeros(
            weight.shape[:1] if wanted[2] else (0,), dtype=torch.float32, device=device
        )
        self.part = hidden.new_empty(0, dtype=torch.float32)
        self.room = hidden.new_empty(0)

    def add(self, chunk: Chunk, grads: Tensor) -> None:
        """Takes in the gradient of a chunk's logits."""
        rows, tokens = slice(chunk.row, chunk.row_end), slice(chunk.token, chunk.token_end)
        if self.wanted[0]:
            # The chunk's own sum first. addmm_ may take its terms into the running sum one by one
            # and round at each: with two threads it was off by three times as much.
            self.hidden[rows] += self._product(grads, self.head.weight[tokens])
        if self.wanted[1]:
            self._add_weight(chunk, grads.t(), self.head.hidden[rows])
        if self.wanted[2]:
            self.bias[tokens] += grads.sum(dim=0, dtype=torch.float32)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        """Of a chunk, in memory that the next one's takes."""
        shape = left.shape[0], right.shape[1]
        count = shape[0] * shape[1]
        if self.room.numel() < count:
            self.room = left.new_empty(count)
        return torch.mm(left, right, out=self.room[:count].view(shape))

    def _add_weight(self, chunk: Chunk, grads: Tensor, hidden: Tensor) -> None:
        into = self.weight[chunk.token : chunk.token_end]
        first, last = chunk.row == 0, chunk.row_end == self.head.hidden.shape[0]
        if first and (last or self.exact):
            torch.mm(grads, hidden, out=into)
        elif self.exact:
            into += self._product(grads, hidden)
        else:
            # One chunk of tokens at a time has a sum in float32: the rows are the inner loop.
            product = (grads @ hidden).float()
            self.part = product if first else self.part.add_(product)
            if last:
                into.copy_(self.part)

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.head.hidden.dtype
        return self.hidden.to(dtype), self.weight, self.bias.to(dtype)


def _run_backward(
    blocks: Blocks,
    head: Head,
    grads: tuple[Tensor | None, Tensor | None],
    stats: Tensor,
    kept: Tensor,
    memory: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    chunks = head.chunks(memory, kept.numel() > 0)
    sums = _Gradients(blocks, head, wanted)
    buffer = blocks.empty((chunks.area(),), head.hidden.dtype, head.hidden.device)
    for chunk in chunks:
        place = _within(buffer, chunk)
        logits = chunks.kept_logits(kept, chunk)
        if logits is None:
            logits = head.logits(chunk, place)
        rows = slice(chunk.row, chunk.row_end)
        part = [None if one is None else one[rows] for one in grads]
        # In place where the logits were computed again; kept ones stay, for a second backward.
        blocks.backward(head.block(chunk, logits), stats[rows], part[0], part[1], place)
        sums.add(chunk, place)
    if not head.hidden.shape[0]:
        sums.weight.zero_()
    return sums.results()


_INPUTS = "Tensor hidden, Tensor weight, Tensor? bias, Tensor labels, float temperature, int memory"


def _forward_results(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    memory: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chunks = Head(hidden, weight, bias, labels, temperature).chunks(memory, keep)
    return *outputs(labels), hidden.new_empty(chunks.kept * chunks.area())


def _gradient_results(
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
    stats: Tensor,
    kept: Tensor,
    wanted: list[bool],
    hidden: Tensor,
    weight: Tensor,
    *_others: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if wanted[0] else (0,)),
        hidden.new_empty(weight.shape if wanted[1] else (0,)),
        hidden.new_empty(weight.shape[:1] if wanted[2] else (0,)),
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    hidden, weight, bias, labels, ctx.temperature, ctx.memory, _ = inputs
    ctx.save_for_backward(hidden, weight, bias, labels, output[2], output[3])
    ctx.mark_non_differentiable(output[2], output[3])
    ctx.set_materialize_grads(False)


class _LinearLogprobs:
    """The torch operations `NAME` and `NAME_backward` over the kernels of a language."""

    def __init__(self, name: str, blocks: Blocks) -> None:
        self.blocks = blocks
        self.operation: Operation = define(
            f"{name}({_INPUTS}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
            self.forward,
            _forward_results,
        )
        self.gradient_operation: Operation = define(
            f"{name}_backward(Tensor? grad_logprobs, Tensor? grad_entropy, Tensor stats,"
            f" Tensor kept, bool[] wanted, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
            self.gradient,
            _gradient_results,
        )
        self.operation.differentiate(self.backward, _setup_context)
        self.gradient_operation.refuse_second_derivative(of=name)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        memory: int,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = Head(hidden, weight, bias, labels, temperature)
        return _run_forward(self.blocks, head, memory, keep)

    def gradient(
        self,
        grad_logprobs: Tensor | None,
        grad_entropy: Tensor | None,
        stats: Tensor,
        kept: Tensor,
        wanted: list[bool],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        memory: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = Head(hidden, weight, bias, labels, temperature)
        grads = plain(grad_logprobs), plain(grad_entropy)
        of = wanted[0], wanted[1], wanted[2]
        return _run_backward(self.blocks, head, grads, stats, kept, memory, of)

    def backward(
        self, ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        none = (None,) * 7
        if grad_logprobs is None and grad_entropy is None:
            return none
        hidden, weight, bias, labels, stats, kept = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        inputs = hidden, weight, bias, labels, ctx.temperature, ctx.memory
        grads = self.gradient_operation(grad_logprobs, grad_entropy, stats, kept, wanted, *inputs)
        found = (grad if want else None for grad, want in zip(grads, wanted, strict=True))
        return *found, *none[3:]

    def call(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        temperature: float,
        bias: Tensor | None,
        memory_bytes: int,
    ) -> tuple[Tensor, Tensor]:
        given = [hidden, weight] if bias is None else [hidden, weight, bias]
        keep = torch.is_grad_enabled() and any(one.requires_grad for one in given)
        logprobs, entropy, *_ = self.operation(
            hidden, weight, bias, labels.contiguous(), temperature, memory_bytes, keep
        )
        return logprobs, entropy


def define_linear_logprobs(name: str, blocks: Blocks) -> Callable[..., tuple[Tensor, Tensor]]:
    """Defines the torch operations `NAME` and `NAME_backward`.

    Returns:
        The implementation of `linear_logprobs` on them.
    """
    return _LinearLogprobs(name, blocks).call
