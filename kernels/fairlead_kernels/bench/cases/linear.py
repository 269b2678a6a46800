"""A linear layer on one row: reading its weights once is all that it costs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fairlead_kernels.bench.cases.inputs import normal
from fairlead_kernels.bench.workload import Cost, Inputs, Shape, Workload

__all__ = ["WORKLOADS"]


def _make(
    shape: Shape, dtype: torch.dtype, generator: torch.Generator, inputs_first: bool
) -> Inputs:
    inputs, outputs = shape
    weight = normal(outputs, inputs, dtype=dtype, generator=generator)
    kwargs = {
        "row": normal(1, inputs, dtype=dtype, generator=generator),
        "weight": weight.t().contiguous().t() if inputs_first else weight,
        "bias": normal(outputs, dtype=dtype, generator=generator),
    }
    return Inputs(kwargs)


def _eager(row: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(row, weight, bias)


def _cost(inputs: Inputs) -> Cost:
    weight = inputs.kwargs["weight"]
    return Cost(weight.numel() * weight.element_size(), 2 * weight.numel(), products=True)


def _terms(inputs: Inputs) -> dict[str, Tensor]:
    kwargs = {name: one.abs() for name, one in inputs.kwargs.items()}
    return {"result": _eager(**kwargs)}


WORKLOADS = tuple(
    Workload(
        op="row_linear",
        name=name,
        axes=("I", "O"),
        shapes={"cpu": ((768, 50257),)},
        make=partial(_make, inputs_first=inputs_first),
        outputs=("result",),
        eager=_eager,
        cost=_cost,
        dtypes=(torch.float32,),
        terms=_terms,
        swept=("I", "O"),
    )
    for name, inputs_first in (("weight [O, I]", False), ("weight [I, O]", True))
)
