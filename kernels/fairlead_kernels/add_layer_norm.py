"""A residual sum and its layer normalisation in one pass: between them a row stays in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairlead_kernels._checks import finite, shown, tensors
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "add_layer_norm"]

_OP = "add_layer_norm"


def add_layer_norm(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`x + other`, and `(sum - mean) / sqrt(variance + eps) * weight + bias` of it.

    Ba et al. 2016 (arXiv 1607.06450), equation 4, over the last dimension; the variance is divided
    by its size. A NaN or an infinity in a row makes that row of the normalisation NaN. With `cpp` a
    row's result depends on that row alone, bit for bit, and there is no gradient.

    Args:
        x: `[..., D]`, D > 0, floating; `cpp` takes float32.
        other: Likewise.
        weight: `[D]`, of that dtype.
        bias: `[D]`, of that dtype.
        eps: Added to the variance; at least 0.
        impl: An implementation's name, or `auto`.

    Returns:
        The sum and its normalisation, `[..., D]`, contiguous with `cpp`.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype or device that is not the above, an eps below 0.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors(_OP, x=x, other=other, weight=weight, bias=bias)
    problem = _problem(x, other, weight, bias)
    if problem is not None:
        raise ValueError(f"{_OP}: {problem}")
    finite(_OP, eps=eps)
    if eps < 0:
        raise ValueError(f"{_OP}: eps must be at least 0, got {eps}")
    total, normal = registry.call(_OP, impl, x, other, weight, bias, eps)
    return total, normal


def _problem(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, *_eps: float) -> str | None:
    """Why these are not what the operation takes, or None."""
    if x.dim() == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        return f"x must be floating [..., D] with D > 0, got {shown(x)}"
    for name, one in (("other", other), ("weight", weight), ("bias", bias)):
        shape = x.shape if one is other else x.shape[-1:]
        if one.shape != shape or one.dtype != x.dtype or one.device != x.device:
            return f"{name} must be {tuple(shape)} {x.dtype} on {x.device}, got {shown(one)}"
    return None


def _unreadable(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float) -> str | None:
    problem = _problem(x, other, weight, bias)
    if problem is not None:
        return problem
    if x.device.type != "cpu":
        return f"it runs on cpu tensors, these are on {x.device}"
    if x.dtype != torch.float32:
        return f"it takes float32, not {x.dtype}"
    if not eps >= 0:
        return f"eps must be at least 0, got {eps}"
    contiguous = all(one.is_contiguous() for one in (x, other, weight, bias))
    return None if contiguous else "x, other, weight and bias must be contiguous"


def _reference(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + other
    return total, torch.nn.functional.layer_norm(total, x.shape[-1:], weight, bias, eps)


def _results(x: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _call(
    operation: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    other: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return operation(*(one.contiguous() for one in (x, other, weight, bias)), eps)


OPERATION = TorchOp(
    "(Tensor x, Tensor other, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    _results,
    _unreadable,
    _call,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    rows, numbers = torch.zeros(2, 8, device=device), torch.ones(8, device=device)
    return rows, rows, numbers, numbers, 1e-5


registry.define(_OP, _reference, _probe)
