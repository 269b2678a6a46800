"""Attention of one query a row over a cache that is padded to the longest row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead_kernels.bench.cases.inputs import lengths as draw_lengths
from fairlead_kernels.bench.cases.inputs import normal
from fairlead_kernels.bench.workload import Baseline, Cost, Inputs, Shape, Workload

__all__ = ["WORKLOADS"]


def _make(shape: Shape, dtype: torch.dtype, generator: torch.Generator, ragged: bool) -> Inputs:
    rows, heads, kv_heads, longest, width = shape
    cache = (rows, kv_heads, longest, width)
    full = torch.full((rows,), longest, device=generator.device)
    kwargs = {
        "query": normal(rows, heads, width, dtype=dtype, generator=generator),
        "keys": normal(*cache, dtype=dtype, generator=generator),
        "values": normal(*cache, dtype=dtype, generator=generator),
        "lengths": draw_lengths(rows, longest, generator) if ragged else full,
    }
    return Inputs(kwargs)


def _inside(keys: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(keys.shape[2], device=keys.device) < lengths.unsqueeze(1)


def _eager(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    mask = _inside(keys, lengths)[:, None, None]
    result = F.scaled_dot_product_attention(
        query.unsqueeze(2), keys, values, mask, enable_gqa=query.shape[1] != keys.shape[1]
    )
    return result.squeeze(2)


def _cost(inputs: Inputs) -> Cost:
    query, keys = inputs.kwargs["query"], inputs.kwargs["keys"]
    tokens = int(inputs.kwargs["lengths"].sum())
    cached = 2 * tokens * keys.shape[1] * keys.shape[3]
    moved = (cached + 2 * query.numel()) * query.element_size()
    return Cost(moved, 4 * tokens * query.shape[1] * query.shape[2], products=True)


def _spoil(inputs: Inputs) -> Inputs:
    outside = ~_inside(inputs.kwargs["keys"], inputs.kwargs["lengths"])[:, None, :, None]
    return inputs.replaced(
        **{name: inputs.kwargs[name].masked_fill(outside, float("nan")) for name in _CACHE}
    )


_CACHE = ("keys", "values")


def _refuse(shape: Shape) -> str | None:
    _, heads, kv_heads, _, _ = shape
    return f"{heads} heads are no multiple of {kv_heads}" if heads % kv_heads else None


def _flash(inputs: Inputs) -> Callable[[], object]:
    from flash_attn import flash_attn_with_kvcache

    # Its cache is [B, S, H, D].
    keys, values = (inputs.kwargs[name].transpose(1, 2).contiguous() for name in _CACHE)
    query = inputs.kwargs["query"].unsqueeze(1)
    lengths = inputs.kwargs["lengths"].int()

    def call() -> object:
        return flash_attn_with_kvcache(query, keys, values, cache_seqlens=lengths)

    call()
    return call


def _xformers(inputs: Inputs) -> Callable[[], object]:
    from xformers.ops import fmha

    query, keys = inputs.kwargs["query"], inputs.kwargs["keys"]
    rows, kv_heads, longest, width = keys.shape
    group = query.shape[1] // kv_heads
    bias = fmha.attn_bias.BlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
        q_seqlen=[1] * rows, kv_padding=longest, kv_seqlen=inputs.kwargs["lengths"].tolist()
    )
    # One long row of all tokens, [1, tokens, Hkv, group, D]; the group shares its keys.
    cache = [inputs.kwargs[name].transpose(1, 2) for name in _CACHE]
    packed = [one.reshape(1, rows * longest, kv_heads, 1, width).contiguous() for one in cache]
    shared = [one.expand(-1, -1, -1, group, -1) for one in packed]
    one_row = query.reshape(1, rows, kv_heads, group, width)

    def call() -> object:
        return fmha.memory_efficient_attention_forward(one_row, *shared, attn_bias=bias)

    call()
    return call


WORKLOADS = tuple(
    Workload(
        op="decode_attention",
        name="lengths 1..S" if ragged else "full length",
        axes=("B", "H", "Hkv", "S", "D"),
        shapes=(
            {"cpu": ((64, 6, 6, 512, 64),), "cuda": ((512, 32, 32, 384, 64),)}
            if ragged
            else {"cuda": ((512, 32, 32, 384, 64), (128, 32, 4, 4096, 64))}
        ),
        make=partial(_make, ragged=ragged),
        outputs=("result",),
        eager=_eager,
        cost=_cost,
        cuda_dtype=torch.bfloat16,
        split=("query", "keys", "values", "lengths"),
        spoil=_spoil if ragged else None,
        swept=("B", "S"),
        refuse=_refuse,
        baselines=(Baseline("flash-attn", _flash), Baseline("xformers", _xformers)),
    )
    for ragged in (True, False)
)
