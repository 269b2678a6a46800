"""Inputs for the tests of decode_attention, and what is right there."""

import pytest
import torch
from cases import normal
from tolerances import assert_within_error_rule

from fairlead_kernels import decode_attention, native_status
from fairlead_kernels.decode_attention import _reference
from fairlead_kernels.triton import INTERPRETED

needs_native = pytest.mark.skipif(
    not native_status().available, reason=native_status().reason or "native module"
)
needs_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="triton runs on CUDA here: tests/gpu tests it there"
)
CPP = pytest.param("cpp", marks=needs_native)
TRITON = pytest.param("triton", marks=needs_interpreter)
IMPLS = ["reference", CPP, TRITON]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def case(rows, heads, kv_heads, positions, dim, dtype=torch.float32, seed=0):
    """A query, a cache and ragged lengths, an empty and a full row among them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, positions + 1, (rows,), generator=generator)
    lengths[-1:] = positions
    if rows > 1:
        lengths[0] = 0
    query = normal(rows, heads, dim, seed=seed + 1).to(dtype)
    keys = normal(rows, kv_heads, positions, dim, seed=seed + 2).to(dtype)
    values = normal(rows, kv_heads, positions, dim, seed=seed + 3).to(dtype)
    return query, keys, values, lengths


def assert_right(inputs, impl):
    query, keys, values, lengths = inputs
    scale = query.shape[2] ** -0.5
    ours = decode_attention(*inputs, impl=impl)
    assert ours.dtype == query.dtype
    assert ours.is_contiguous()
    exact = _reference(query.double(), keys.double(), values.double(), lengths, scale)
    plain = _reference(*inputs, scale)
    # Weighted values of both signs cancel: an ulp is one of the largest of them.
    terms = torch.full_like(exact, float(values.abs().max()) if values.numel() else 0.0)
    assert_within_error_rule(ours, plain, exact, terms)
