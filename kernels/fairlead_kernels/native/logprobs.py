"""The native kernels of `token_logprobs` and `linear_logprobs`, over a block of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._logprob_ops import STATS, Block, Blocks
from fairlead_kernels.native.layout import FLOAT_TYPES
from fairlead_kernels.native.memory import empty

__all__ = ["BLOCKS"]


def _check(
    block: Block, rows: dict[str, tuple[Tensor | None, tuple[int, ...], torch.dtype]]
) -> None:
    """Raises ValueError for memory that is not what the kernels read or write."""
    logits = block.logits
    if logits.dim() != 2 or logits.dtype not in FLOAT_TYPES or logits.device.type != "cpu":
        raise ValueError(
            "logprobs: logits must be float32, bfloat16 or float16 [N, V] on the CPU, got "
            f"{tuple(logits.shape)} {logits.dtype} on {logits.device}"
        )
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError("logprobs: the last dimension of logits must be contiguous")
    if not 0 <= block.first <= block.vocabulary - logits.shape[1]:
        raise ValueError(
            f"logprobs: columns {block.first} to {block.first + logits.shape[1]} are not within "
            f"the vocabulary of {block.vocabulary}"
        )
    labels = {"labels": (block.labels, (), torch.int64)}
    for name, (tensor, tail, dtype) in {**labels, **rows}.items():
        if tensor is None:
            continue
        shape = (logits.shape[0], *tail)
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device != logits.device:
            raise ValueError(
                f"logprobs: {name} must be {dtype} {shape} on {logits.device}, got "
                f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"logprobs: {name} must be contiguous")


def _describe(block: Block) -> tuple[int, int, int, int, int, int, float]:
    logits = block.logits
    return (
        FLOAT_TYPES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        block.first,
        block.vocabulary,
        block.temperature,
    )


def _forward(
    block: Block, state: Tensor | None, logprobs: Tensor, entropy: Tensor, stats: Tensor
) -> None:
    f32 = torch.float32
    _check(
        block,
        {
            "state": (state, (STATS,), torch.float64),
            "logprobs": (logprobs, (), f32),
            "entropy": (entropy, (), f32),
            "stats": (stats, (STATS,), f32),
        },
    )
    if state is None and block.logits.shape[1] != block.vocabulary:
        raise ValueError("logprobs: a part of the vocabulary needs a state")
    native.call(
        "logprobs_forward",
        *(block.logits, block.labels, state, logprobs, entropy, stats),
        _describe(block),
    )


def _backward(
    block: Block,
    stats: Tensor,
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
    grad_logits: Tensor,
) -> None:
    f32 = torch.float32
    _check(
        block,
        {
            "stats": (stats, (STATS,), f32),
            "grad_logprobs": (grad_logprobs, (), f32),
            "grad_entropy": (grad_entropy, (), f32),
        },
    )
    logits, same = block.logits, grad_logits
    if same.shape != logits.shape or same.dtype != logits.dtype or same.device != logits.device:
        raise ValueError("logprobs: the gradient must have the logits' shape, dtype and device")
    rows, cols = logits.shape
    if (cols > 1 and same.stride(1) != 1) or (rows > 1 and same.stride(0) < cols):
        raise ValueError("logprobs: the gradient's rows must be contiguous and not overlap")
    native.call(
        "logprobs_backward",
        *(logits, block.labels, stats, grad_logprobs, grad_entropy, grad_logits),
        grad_logits.stride(0),
        _describe(block),
    )


BLOCKS = Blocks(forward=_forward, backward=_backward, empty=empty, state=torch.float64)
