"""A linear layer on few rows, its weight laid out in panels: what a decoding step is made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fairlead_kernels._checks import shown, tensors
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "pack_weight", "packed_linear"]

_OP = "packed_linear"
_PANEL = 16


def pack_weight(weight: Tensor) -> Tensor:
    """Lays a linear layer's weight out in panels of 16 outputs, for `packed_linear`.

    Args:
        weight: `[O, I]`, any dtype, any strides.

    Returns:
        `[ceil(O / 16), I, 16]`: output o is `[o // 16, :, o % 16]`; what is past O is zero.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: The weight is no matrix.
    """
    tensors("pack_weight", weight=weight)
    if weight.dim() != 2:
        raise ValueError(f"pack_weight: weight must be [O, I], got {shown(weight)}")
    outputs, inputs = weight.shape
    whole, beyond = divmod(outputs, _PANEL)
    panels = weight.new_zeros((whole + (beyond > 0), inputs, _PANEL))
    side_by_side = weight[: whole * _PANEL].reshape(whole, _PANEL, inputs)
    panels[:whole] = side_by_side.transpose(1, 2)
    if beyond:
        panels[whole, :, :beyond] = weight[whole * _PANEL :].t()
    return panels


def packed_linear(
    rows: Tensor,
    panels: Tensor,
    outputs: int,
    bias: Tensor | None = None,
    gelu: bool = False,
    impl: str = "auto",
) -> Tensor:
    """`rows @ weight.T + bias` of a weight that `pack_weight` has laid out; GELU of it where asked.

    `cpp` takes float32 on the CPU. It reads a weight in the order in which it lies, once for all
    rows. With it a result depends on its own row alone, bit for bit: not on the other rows, not on
    the number of threads. Half precision, a GPU and a gradient are left to the reference.

    Args:
        rows: `[N, I]`, floating.
        panels: `[ceil(O / 16), I, 16]` of the rows' dtype, contiguous.
        outputs: O.
        bias: `[O]`, of the rows' dtype.
        gelu: Whether GPT-2's GELU, the one by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415),
            of the sum is returned.
        impl: An implementation's name, or `auto`.

    Returns:
        `[N, O]`, in the rows' dtype.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape, dtype or device that is not the above.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors(_OP, {"bias": bias}, rows=rows, panels=panels)
    problem = _problem(rows, panels, outputs, bias)
    if problem is not None:
        raise ValueError(f"{_OP}: {problem}")
    result: Tensor = registry.call(_OP, impl, rows, panels, outputs, bias, gelu)
    return result


def _problem(rows: Tensor, panels: Tensor, outputs: int, bias: Tensor | None) -> str | None:
    """Why these are not what the operation takes, or None."""
    if rows.dim() != 2 or not rows.is_floating_point():
        return f"rows must be floating [N, I], got {shown(rows)}"
    if not isinstance(outputs, int | torch.SymInt) or outputs < 0:
        return f"outputs must be how many the layer has, an integer from 0, got {outputs!r}"
    expected = (-(-outputs // _PANEL), rows.shape[1], _PANEL)
    if panels.shape != expected:
        return (
            f"for rows of {rows.shape[1]} inputs and {outputs} outputs the panels must be "
            f"{expected}, as pack_weight(weight) makes them, got {shown(panels)}"
        )
    if bias is not None and bias.shape != (outputs,):
        return f"bias must be [{outputs}], got {shown(bias)}"
    for name, one in (("panels", panels), ("bias", bias)):
        if one is not None and (one.dtype != rows.dtype or one.device != rows.device):
            return f"{name} must be {rows.dtype} on {rows.device} as the rows are, got {shown(one)}"
    return (
        None if panels.is_contiguous() else "panels must be contiguous, as pack_weight makes them"
    )


def _unreadable(
    rows: Tensor, panels: Tensor, outputs: int, bias: Tensor | None, _gelu: bool
) -> str | None:
    problem = _problem(rows, panels, outputs, bias)
    if problem is not None:
        return problem
    if rows.device.type != "cpu":
        return f"it runs on cpu tensors, these are on {rows.device}"
    return None if rows.dtype == torch.float32 else f"it takes float32, not {rows.dtype}"


def _reference(
    rows: Tensor, panels: Tensor, outputs: int, bias: Tensor | None, gelu: bool
) -> Tensor:
    weight = panels.transpose(1, 2).flatten(0, 1)[:outputs]
    result = functional.linear(rows, weight, bias)
    return functional.gelu(result, approximate="tanh") if gelu else result


def _results(rows: Tensor, _panels: Tensor, outputs: int, *_others: object) -> Tensor:
    return rows.new_empty((rows.shape[0], outputs))


OPERATION = TorchOp(
    "(Tensor rows, Tensor panels, SymInt outputs, Tensor? bias, bool gelu) -> Tensor",
    _results,
    _unreadable,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    panels = torch.zeros(1, 8, _PANEL, device=device)
    return torch.zeros(2, 8, device=device), panels, 4, torch.zeros(4, device=device), False


registry.define(_OP, _reference, _probe)
