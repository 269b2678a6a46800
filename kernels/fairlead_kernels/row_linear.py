"""A linear layer on one row: the product that decoding a single sequence is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels._checks import shown
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "row_linear"]

_OP = "row_linear"


def row_linear(
    row: Tensor, weight: Tensor, bias: Tensor | None = None, impl: str = "auto"
) -> Tensor:
    """`row @ weight.T + bias` for a single row, which takes as long as reading the weight does.

    `cpp` takes float32 on the CPU; its result is the same in every bit whatever the number of
    threads. Half precision, a GPU and a gradient are left to the reference.

    Args:
        row: `[1, I]`, floating.
        weight: `[O, I]`, of the row's dtype. `cpp` takes it as it lies, in the order of its rows or
            of its columns.
        bias: `[O]`, of the row's dtype.
        impl: An implementation's name, or `auto`.

    Returns:
        `[1, O]`, in the row's dtype.

    Raises:
        ValueError: A shape, dtype or device that is not the above.
        KernelError: `impl` cannot run on these inputs.
    """
    problem = _problem(row, weight, bias)
    if problem is not None:
        raise ValueError(f"{_OP}: {problem}")
    result: Tensor = registry.call(_OP, impl, row, weight, bias)
    return result


def _problem(row: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why these tensors are not what the operation takes, or None."""
    if row.dim() != 2 or row.shape[0] != 1 or not row.is_floating_point():
        return f"row must be floating [1, I], got {shown(row)}"
    if weight.dim() != 2 or weight.shape[1] != row.shape[1]:
        return f"weight must be [O, {row.shape[1]}], got {shown(weight)}"
    if bias is not None and bias.shape != weight.shape[:1]:
        return f"bias must be [{weight.shape[0]}], got {shown(bias)}"
    for name, one in (("weight", weight), ("bias", bias)):
        if one is not None and (one.dtype != row.dtype or one.device != row.device):
            return f"{name} must be {row.dtype} on {row.device} as the row is, got {shown(one)}"
    return None


def _unreadable(row: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    problem = _problem(row, weight, bias)
    if problem is not None:
        return problem
    if row.device.type != "cpu":
        return f"it runs on cpu tensors, these are on {row.device}"
    if row.dtype != torch.float32:
        return f"it takes float32, not {row.dtype}"
    if weight.stride(0) != 1 and weight.stride(1) != 1:
        return f"the weight must be contiguous in one dimension, its strides are {weight.stride()}"
    return None


def _reference(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(row, weight, bias)


def _results(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return row.new_empty((1, weight.shape[0]))


OPERATION = TorchOp(
    "(Tensor row, Tensor weight, Tensor? bias) -> Tensor",
    _results,
    _unreadable,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    weight = torch.zeros(4, 8, device=device)
    return torch.zeros(1, 8, device=device), weight, torch.zeros(4, device=device)


registry.define(_OP, _reference, _probe)
