"""`token_logprobs` of a language-model head, from its input and without its logits in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import shape_error, takes, temperature_at_least, tensors
from fairlead_kernels._linear_logprob_ops import define_linear_logprobs
from fairlead_kernels.dispatch import registry
from fairlead_kernels.token_logprobs import _reference as _token_logprobs
from fairlead_kernels.triton.blocks import BLOCKS

__all__ = ["MEMORY_BYTES", "linear_logprobs"]

MEMORY_BYTES = 256 << 20
"""The default for the memory that logits may take."""


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    impl: str = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs(hidden @ weight.T + bias, labels, temperature)`, chunk by chunk.

    The contract is that of `token_logprobs`, in value and in gradient, -inf, NaN and the bounds
    included. Logits are formed in the dtype of `hidden`, as the head would form them, and their
    gradients in that dtype too; log-probs, entropies and sums over chunks are float32. Results do
    not depend on the chunks but by rounding. Fidelity items 10 and 33.

    The implementations but the reference never hold `[N, V]`: chunks of rows and tokens go through
    one buffer, and the backward computes their logits again. Where `memory_bytes` allows it, some
    chunks, or all, are kept for the backward instead. Beside them there are the gradients asked
    for, a chunk's share of one and, in half precision, a float32 sum the size of `hidden`.

    Under autocast hidden, weight and bias are cast to its dtype first, as a linear layer's are.

    Args:
        hidden: `[N, D]`, floating.
        weight: `[V, D]`, the dtype and device of `hidden`.
        labels: `[N]`, int64, in [0, V).
        temperature: Divides the logits; above 0.
        bias: `[V]`, or None.
        impl: An implementation's name, or `auto`.
        memory_bytes: What logits may take at most: a quarter for the chunk that is worked at,
            the rest for chunks kept for the backward. A chunk is at least one row of 64 tokens.

    Returns:
        Log-probabilities `[N]` and entropies in nats `[N]`, float32, both differentiable with
        respect to hidden, weight and bias.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype or device that is not the above, a temperature or memory of 0 or
            less.
        IndexError: On the CPU, a label that is not in the vocabulary (of the reference, torch's
            RuntimeError); on a GPU `triton` gives it log-probability NaN.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors("linear_logprobs", {"bias": bias}, hidden=hidden, weight=weight, labels=labels)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(hidden, weight, labels, bias)
    temperature_at_least("linear_logprobs", temperature, zero_allowed=False)
    if memory_bytes <= 0:
        raise ValueError(f"linear_logprobs: memory_bytes must be above 0, got {memory_bytes}")
    with torch.autocast(kind, enabled=False):
        logprobs, entropy = registry.call(
            "linear_logprobs", impl, hidden, weight, labels, temperature, bias, memory_bytes
        )
    return logprobs, entropy


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    op = "linear_logprobs"
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise shape_error(op, "hidden must be floating [N, D]", hidden)
    rows, width = hidden.shape
    like = f"{hidden.dtype} on {hidden.device}"
    if (
        weight.dim() != 2
        or weight.shape[0] == 0
        or weight.shape[1] != width
        or weight.dtype != hidden.dtype
        or weight.device != hidden.device
    ):
        raise shape_error(op, f"weight must be [V, {width}] {like} with V > 0", weight)
    if labels.shape != (rows,) or labels.dtype != torch.int64 or labels.device != hidden.device:
        raise shape_error(op, f"labels must be int64 [{rows}] on {hidden.device}", labels)
    if bias is not None and (
        bias.shape != weight.shape[:1] or bias.dtype != hidden.dtype or bias.device != hidden.device
    ):
        raise shape_error(op, f"bias must be [{weight.shape[0]}] {like}", bias)


def _reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float,
    bias: Tensor | None,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[Tensor, Tensor]:
    return _token_logprobs(F.linear(hidden, weight, bias), labels, temperature)


def _probe(device: torch.device) -> tuple[object, ...]:
    return (
        torch.zeros(2, 4, device=device),
        torch.zeros(8, 4, device=device),
        torch.zeros(2, dtype=torch.int64, device=device),
        1.0,
        None,
    )


registry.define("linear_logprobs", _reference, _probe)


def _triton_supports(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float,
    bias: Tensor | None,
    memory_bytes: int = MEMORY_BYTES,
) -> str | None:
    return triton.runs_on(hidden.device) or takes(hidden)


_TRITON = define_linear_logprobs("triton_linear_logprobs", BLOCKS)
triton.register("linear_logprobs", _TRITON, _triton_supports)
