"""Linear layers of a model on a CPU in float32, multiplied by oneDNN where it is the faster one.

Torch takes another library for float32 products, MKL, which leaves half of AVX-512 unused on
processors of other makers than Intel, and reads transposed weights at half its speed there. Nothing
else changes: the layers hold the same parameters under the same names.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

_POINTWISE: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

ROUND = 32
"""A product of a size it has not met costs oneDNN some milliseconds: it takes round ones alone."""


def use_faster_products(model: nn.Module) -> None:
    """Have a model's linear layers multiplied by oneDNN, where that gains something.

    Torch's own library, MKL, is made by Intel, and on other makers' processors goes no further than
    AVX2. It goes by maker and instructions, and nothing is timed, so that a run repeated on a
    machine is the same to the last bit.
    """
    if not torch_is_fast():
        use_onednn(model)


@cache
def torch_is_fast() -> bool:
    """Whether torch multiplies float32 by MKL, with all that the processor has."""
    if not torch.backends.mkl.is_available():
        return False
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return True
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        facts = platform.processor()
    return "GenuineIntel" in facts


def use_onednn(model: nn.Module) -> None:
    """Have a model's linear layers multiplied by oneDNN, where torch has it."""
    if _POINTWISE is None or not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        # A subclass of theirs may compute something else.
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
        elif type(module) is Conv1D:
            module.__class__ = OneDnnConv1D


class OneDnnLinear(nn.Linear):
    """torch's linear layer, its weight ``[out, in]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias``."""
        if not _takes(input, self.weight):
            return super().forward(input)
        return _product(input, self.weight, self.bias)


class OneDnnConv1D(Conv1D):
    """The linear layer of transformers' GPT-2, its weight ``[in, out]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight + bias``."""
        if not _takes(x, self.weight):
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        return _product(x, self.weight.t(), self.bias)


def _takes(rows: Tensor, weight: Tensor) -> bool:
    # While a step is recorded tensors are of a type of their own.
    if type(rows) is not Tensor or rows.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    both = rows.dtype == weight.dtype == torch.float32
    return both and rows.numel() > 0 and rows.numel() // rows.shape[-1] % ROUND == 0


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    flat = rows.reshape(-1, rows.shape[-1])
    wanted = any(one is not None and one.requires_grad for one in (flat, weight, bias))
    if torch.is_grad_enabled() and wanted:
        product: Tensor = _WithGradient.apply(flat, weight, bias)  # type: ignore[no-untyped-call]
    else:
        product = _multiply(flat, weight, bias)
    return product.view(*rows.shape[:-1], -1)


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows @ weight.T + bias``, whichever way the operands lie."""
    product: Tensor = _POINTWISE(rows, weight, bias, "none", [], "")
    return product


class _WithGradient(torch.autograd.Function):
    """`_multiply` of ``[N, in]`` with ``[out, in]``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            _multiply(grad, weight.t()) if for_rows else None,
            _weight_gradient(grad, rows, weight) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def _weight_gradient(grad: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``grad.T @ rows``, ``[out, in]``, lying as the weight does."""
    if weight.is_contiguous():
        return _outer(grad, rows)
    return _outer(rows, grad).t()


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left.T @ right``."""
    # oneDNN is the faster one where the result is wide, and the slower one where it is tall.
    if left.shape[1] < right.shape[1]:
        return _multiply(left.t(), right.t())
    return left.t() @ right
