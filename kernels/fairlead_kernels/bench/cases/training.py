"""What a forward pass without padding is made of beside products, forward and backward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead_kernels.bench.cases.inputs import lengths, normal
from fairlead_kernels.bench.workload import Cost, Inputs, Shape, Workload

__all__ = ["WORKLOADS"]


def _gelu(shape: Shape, dtype: torch.dtype, generator: torch.Generator, leaves: bool) -> Inputs:
    x = normal(*shape, dtype=dtype, generator=generator)
    if not leaves:
        return Inputs({"x": x})
    upstream = normal(*shape, dtype=dtype, generator=generator)
    return Inputs({"x": x}, {"result": upstream}, ("x",))


def _tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _pointwise(inputs: Inputs) -> Cost:
    """The input read and the result written; backwards the same, and the gradient read."""
    x = inputs.kwargs["x"]
    passes = 5 if inputs.leaves else 2
    return Cost(passes * x.numel() * x.element_size(), 20 * x.numel())


def _row(shape: Shape, dtype: torch.dtype, generator: torch.Generator, leaves: bool) -> Inputs:
    """Query, keys and values as parts of one tensor, of sequences with lengths in 1..S."""
    sequences, heads, kv_heads, longest, width = shape
    # Two together have S + 1 positions: how many there are in all does not depend on the draw.
    half = lengths(sequences // 2, longest, generator)
    middle = half.new_full((sequences % 2,), (longest + 1) // 2)
    each = torch.cat([half, longest + 1 - half, middle])
    positions = sequences // 2 * (longest + 1) + len(middle) * ((longest + 1) // 2)
    sizes = [heads * width, kv_heads * width, kv_heads * width]
    together = normal(positions, sum(sizes), dtype=dtype, generator=generator)
    parts = [one.unflatten(1, (-1, width)) for one in together.split(sizes, 1)]
    kwargs = dict(zip(_PARTS, parts, strict=True))
    kwargs |= {"offsets": F.pad(each.cumsum(0), (1, 0)), "longest": longest}
    if not leaves:
        return Inputs(kwargs)
    upstream = normal(*parts[0].shape, dtype=dtype, generator=generator)
    return Inputs(kwargs, {"result": upstream}, _PARTS)


_PARTS = ("query", "keys", "values")


def _padded(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Attention over sequences padded on the right, as people run it."""
    place = torch.arange(longest, device=query.device)
    inside = place < offsets.diff()[:, None]
    rows = torch.where(inside, offsets[:-1, None] + place, 0)
    q, k, v = (
        one.index_select(0, rows.flatten()).unflatten(0, rows.shape).transpose(1, 2)
        for one in (query, keys, values)
    )
    grouped = query.shape[1] != keys.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    # Back to the row, whose length is known without a look at the mask.
    at = torch.arange(len(query), device=query.device)
    sequence = torch.searchsorted(offsets, at, right=True) - 1
    back = sequence * longest + at - offsets[sequence]
    return out.transpose(1, 2).flatten(0, 1).index_select(0, back)


def _attention(inputs: Inputs) -> Cost:
    """Of a score two products forwards and five backwards, half of a square a sequence."""
    query, keys = inputs.kwargs["query"], inputs.kwargs["keys"]
    pairs = int((inputs.kwargs["offsets"].diff().square().sum()) / 2)
    products = 7 if inputs.leaves else 2
    moved = (query.numel() + keys.numel()) * (4 if inputs.leaves else 2)
    flops = 2 * products * pairs * query.shape[1] * query.shape[2]
    return Cost(moved * query.element_size(), flops, products=True)


def _refuse(shape: Shape) -> str | None:
    _, heads, kv_heads, _, _ = shape
    return f"{heads} heads are no multiple of {kv_heads}" if heads % kv_heads else None


_NAMES = {"forward": False, "forward+backward": True}

WORKLOADS = (
    *(
        Workload(
            op="gelu",
            name=name,
            axes=("N", "D"),
            shapes={"cpu": ((768, 1536),)},
            make=partial(_gelu, leaves=leaves),
            outputs=("result",),
            eager=_tanh,
            cost=_pointwise,
            swept=("N", "D"),
        )
        for name, leaves in _NAMES.items()
    ),
    *(
        Workload(
            op="ragged_attention",
            name=f"lengths 1..S, {name}",
            axes=("B", "H", "Hkv", "S", "D"),
            shapes={"cpu": ((16, 6, 6, 96, 64),)},
            make=partial(_row, leaves=leaves),
            outputs=("result",),
            eager=_padded,
            cost=_attention,
            swept=("B", "S"),
            refuse=_refuse,
        )
        for name, leaves in _NAMES.items()
    ),
)
