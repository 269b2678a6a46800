"""What a decoding step is made of beside attention: linear layers and what is between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fairlead_kernels.bench.cases.inputs import normal
from fairlead_kernels.bench.workload import Cost, Inputs, Shape, Workload
from fairlead_kernels.packed_linear import pack_weight

__all__ = ["WORKLOADS"]


def _make(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    rows, inputs, outputs = shape
    weight = normal(outputs, inputs, dtype=dtype, generator=generator)
    panels: Any = pack_weight(weight)
    panels.plain = weight
    return Inputs(
        {
            "rows": normal(rows, inputs, dtype=dtype, generator=generator),
            "panels": panels,
            "outputs": outputs,
            "bias": normal(outputs, dtype=dtype, generator=generator),
        }
    )


def _eager(rows: Tensor, panels: Any, outputs: int, bias: Tensor) -> Tensor:
    # Plain torch has the weight as it was: to take it out of its panels is no part of the layer.
    weight = getattr(panels, "plain", None)
    if weight is None:
        weight = panels.transpose(1, 2).flatten(0, 1)[:outputs]
    return functional.linear(rows, weight, bias)


def _linear_cost(inputs: Inputs) -> Cost:
    """The weights are read once."""
    rows, panels = inputs.kwargs["rows"], inputs.kwargs["panels"]
    moved = rows.numel() + panels.numel() + len(rows) * inputs.kwargs["outputs"]
    return Cost(moved * rows.element_size(), 2 * len(rows) * panels.numel(), products=True)


def _terms(inputs: Inputs) -> dict[str, Tensor]:
    sizes = {name: inputs.kwargs[name].abs() for name in ("rows", "panels", "bias")}
    return {"result": _eager(**sizes, outputs=inputs.kwargs["outputs"])}


def _make_rows(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    shapes = {"x": shape, "other": shape, "weight": shape[1:], "bias": shape[1:]}
    return Inputs(
        {name: normal(*one, dtype=dtype, generator=generator) for name, one in shapes.items()}
    )


def _norm(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    total = x + other
    return total, functional.layer_norm(total, x.shape[-1:], weight, bias)


def _norm_cost(inputs: Inputs) -> Cost:
    """Two numbers are read and two written."""
    x = inputs.kwargs["x"]
    return Cost(4 * x.numel() * x.element_size(), 10 * x.numel())


WORKLOADS = (
    Workload(
        op="packed_linear",
        name="forward",
        axes=("N", "I", "O"),
        shapes={"cpu": ((1, 768, 50257), (64, 768, 3072), (64, 3072, 768))},
        make=_make,
        outputs=("result",),
        eager=_eager,
        cost=_linear_cost,
        dtypes=(torch.float32,),
        terms=_terms,
        swept=("N", "I", "O"),
    ),
    Workload(
        op="add_layer_norm",
        name="forward",
        axes=("N", "D"),
        shapes={"cpu": ((64, 384), (1, 768), (4096, 768))},
        make=_make_rows,
        outputs=("sum", "normed"),
        eager=_norm,
        cost=_norm_cost,
        dtypes=(torch.float32,),
        swept=("N", "D"),
    ),
)
