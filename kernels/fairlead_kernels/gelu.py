"""GPT-2's approximation of GELU: one pass over memory in place of a slow hyperbolic tangent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairlead_kernels._checks import takes, tensors
from fairlead_kernels._torch_op import Operation, TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "gelu"]

_OP = "gelu"


def gelu(x: Tensor, impl: str = "auto") -> Tensor:
    """`0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2. NaN gives NaN, inf gives inf, and -inf
    gives NaN, as in torch. `cpp` computes in float32 whatever the dtype, keeps nothing but `x` for
    its gradient, which is 1 and 0 at the infinities, and has no second derivative.

    Args:
        x: Any shape, floating; `cpp` takes float32, bfloat16 and float16.
        impl: An implementation's name, or `auto`.

    Returns:
        `x`'s shape and dtype.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A dtype that is not floating.
        KernelError: `impl` cannot run on this input.
    """
    tensors(_OP, x=x)
    if not x.is_floating_point():
        raise ValueError(f"{_OP}: x must be floating, got {x.dtype}")
    result: Tensor = registry.call(_OP, impl, x)
    return result


def _reference(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _result(x: Tensor, *_others: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _call(operation: Operation, x: Tensor) -> Any:
    return operation(x.contiguous())


def _unreadable(*given: Tensor) -> str | None:
    first = given[0]
    for one in given:
        if one.shape != first.shape or one.dtype != first.dtype or one.device != first.device:
            return (
                f"x and the gradient differ: {first.shape} {first.dtype}, {one.shape} {one.dtype}"
            )
        if not one.is_contiguous():
            return "x and the gradient must be contiguous"
    return takes(first)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(operation: Operation, ctx: Any, grad: Tensor) -> Any:
    return operation(*ctx.saved_tensors, grad.contiguous())


OPERATION = TorchOp(
    "(Tensor x) -> Tensor",
    _result,
    _unreadable,
    _call,
    _keep,
    _backward,
    TorchOp("(Tensor x, Tensor grad) -> Tensor", _result, _unreadable),
)


def _probe(device: torch.device) -> tuple[object, ...]:
    return (torch.zeros(4, device=device),)


registry.define(_OP, _reference, _probe)
