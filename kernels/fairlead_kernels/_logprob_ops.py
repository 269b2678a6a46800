"""`token_logprobs` and `linear_logprobs` as torch operations, over the kernels of one language.

The kernels work on a block of columns of the logits, so that the vocabulary may come in parts. They
are the same in C++ and in Triton; what is around them, here, is too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead_kernels._torch_op import Operation, define

__all__ = ["STATS", "Block", "Blocks", "define_token_logprobs", "outputs"]

STATS = 4
"""Numbers a row that the backward needs: largest logit, sum of exp, mean energy, label counts."""


@dataclass(frozen=True)
class Block:
    """Logits of all rows for the tokens from `first` on.

    Attributes:
        logits: `[N, C]`, the last dimension contiguous.
        labels: `[N]`, int64, in [0, vocabulary): of the whole vocabulary, in this block or not.
        first: The token of the first column.
        vocabulary: How many tokens there are in all blocks.
        temperature: Divides the logits.
    """

    logits: Tensor
    labels: Tensor
    first: int
    vocabulary: int
    temperature: float


class Forward(Protocol):
    """Takes a block into the running sums; with the last block writes the results."""

    def __call__(
        self, block: Block, state: Tensor | None, logprobs: Tensor, entropy: Tensor, stats: Tensor
    ) -> None:
        """`state` is `[N, 4]` and may be None where one block is all."""


class Backward(Protocol):
    """Writes the gradient of a block, in place of its logits where `grad_logits` is them."""

    def __call__(
        self,
        block: Block,
        stats: Tensor,
        grad_logprobs: Tensor | None,
        grad_entropy: Tensor | None,
        grad_logits: Tensor,
    ) -> None:
        """A gradient that is None is zero."""


@dataclass(frozen=True)
class Blocks:
    """The two kernels, how large results are allocated for them, and the dtype of the state."""

    forward: Forward
    backward: Backward
    empty: Callable[[tuple[int, ...], torch.dtype, torch.device], Tensor]
    state: torch.dtype


def outputs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and the backward's numbers, not filled in."""
    logprobs = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
    return logprobs, torch.empty_like(logprobs), logprobs.new_empty((*labels.shape, STATS))


def plain(grad: Tensor | None) -> Tensor | None:
    """The gradient of a result as the kernels read it; sums come with stride 0."""
    return None if grad is None else grad.contiguous()


def _forward_results(
    logits: Tensor, labels: Tensor, temperature: float, inplace: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return outputs(labels)


def _gradient_results(
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    temperature: float,
) -> Tensor:
    return logits.new_empty(logits.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    logits, labels, ctx.temperature, ctx.inplace = inputs
    ctx.save_for_backward(logits, labels, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


class _TokenLogprobs:
    """The torch operations `NAME` and `NAME_backward` over the kernels of a language."""

    def __init__(self, name: str, blocks: Blocks) -> None:
        self.blocks = blocks
        arguments = "Tensor logits, Tensor labels"
        self.operation: Operation = define(
            f"{name}({arguments}, float temperature, bool inplace) -> (Tensor, Tensor, Tensor)",
            self.forward,
            _forward_results,
        )
        self.gradient_operation: Operation = define(
            f"{name}_backward(Tensor? grad_logprobs, Tensor? grad_entropy, {arguments},"
            " Tensor stats, float temperature) -> Tensor",
            self.gradient,
            _gradient_results,
        )
        self.operation.differentiate(self.backward, _setup_context)
        self.gradient_operation.refuse_second_derivative(of=name)

    def forward(
        self, logits: Tensor, labels: Tensor, temperature: float, inplace: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        results = outputs(labels)
        block = Block(logits, labels, 0, logits.shape[1], temperature)
        self.blocks.forward(block, None, *results)
        return results

    def gradient(
        self,
        grad_logprobs: Tensor | None,
        grad_entropy: Tensor | None,
        logits: Tensor,
        labels: Tensor,
        stats: Tensor,
        temperature: float,
    ) -> Tensor:
        result = self.blocks.empty(tuple(logits.shape), logits.dtype, logits.device)
        block = Block(logits, labels, 0, logits.shape[1], temperature)
        self.blocks.backward(block, stats, plain(grad_logprobs), plain(grad_entropy), result)
        return result

    def backward(
        self,
        ctx: Any,
        grad_logprobs: Tensor | None,
        grad_entropy: Tensor | None,
        _stats: Tensor | None,
    ) -> tuple[Tensor | None, None, None, None]:
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None, None
        logits, labels, stats = ctx.saved_tensors
        if not ctx.inplace:
            given = grad_logprobs, grad_entropy, logits, labels, stats, ctx.temperature
            return self.gradient_operation(*given), None, None, None
        if torch.is_grad_enabled():
            raise RuntimeError("token_logprobs: inplace_backward allows no second derivative")
        logits = logits.detach()
        block = Block(logits, labels, 0, logits.shape[1], ctx.temperature)
        self.blocks.backward(block, stats, plain(grad_logprobs), plain(grad_entropy), logits)
        # Whoever else kept the logits for a backward, this one a second time included, is told by
        # autograd that they were modified.
        torch.autograd.graph.increment_version(logits)
        return logits, None, None, None

    def call(
        self, logits: Tensor, labels: Tensor, temperature: float, inplace_backward: bool = False
    ) -> tuple[Tensor, Tensor]:
        # A compiled graph plans its own memory, and cannot have a saved tensor change under it.
        inplace = inplace_backward and not torch.compiler.is_compiling()
        if logits.shape[1] > 1 and logits.stride(1) != 1:
            logits = logits.contiguous()
        logprobs, entropy, _ = self.operation(logits, labels.contiguous(), temperature, inplace)
        return logprobs, entropy


def define_token_logprobs(name: str, blocks: Blocks) -> Callable[..., tuple[Tensor, Tensor]]:
    """Defines the torch operations `NAME` and `NAME_backward`.

    Returns:
        The implementation of `token_logprobs` on them.
    """
    return _TokenLogprobs(name, blocks).call
