import math

import pytest
import torch
from cases import ODD_ROWS, normal
from tolerances import assert_within_error_rule

from fairlead_kernels import decode_attention, xformers_missing
from fairlead_kernels.decode_attention import _reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
needs_xformers = pytest.mark.skipif(
    xformers_missing() is not None, reason=xformers_missing() or "xformers"
)
XFORMERS = pytest.param("xformers", marks=needs_xformers)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def case(rows, heads, kv_heads, positions, dim, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, positions + 1, (rows,), generator=generator)
    lengths[-1:] = positions
    if rows > 1:
        lengths[0] = 0
    query = normal(rows, heads, dim, seed=seed + 1).to(dtype)
    cache = [normal(rows, kv_heads, positions, dim, seed=seed + n).to(dtype) for n in (2, 3)]
    return [x.cuda() for x in (query, *cache, lengths)]


def assert_right(inputs, impl):
    query, keys, values, lengths = (x.cpu() for x in inputs)
    scale = query.shape[2] ** -0.5
    exact = _reference(query.double(), keys.double(), values.double(), lengths, scale)
    plain = _reference(query, keys, values, lengths, scale)
    ours = decode_attention(*inputs, impl=impl)
    assert ours.dtype == query.dtype
    terms = torch.full_like(exact, float(values.abs().max()))
    if impl == "xformers" and query.dtype != torch.float32:
        # Its weights are rounded to 16 bits: so are those of torch's own attention in this dtype.
        counts = (torch.arange(keys.shape[2]) < lengths[:, None])[:, None, None]
        plain = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, None], keys, values, attn_mask=counts, enable_gqa=True
        )[:, :, 0].masked_fill((lengths == 0).view(-1, 1, 1), 0.0)
    assert_within_error_rule(ours.cpu(), plain, exact, terms)


@pytest.mark.parametrize("impl", ["triton", XFORMERS])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "positions", "dim"),
    [(1, 1, 8, 8), (6, 6, 300, 64), (32, 4, 1000, 64), (8, 1, 257, 80), (16, 2, 700, 128)],
)
def test_error_rule_in_every_dtype_and_grouping(impl, dtype, heads, kv_heads, positions, dim):
    assert_right(case(5, heads, kv_heads, positions, dim, dtype), impl)


@pytest.mark.parametrize("rows", ODD_ROWS)
def test_error_rule_on_odd_rows_and_dimensions(rows):
    assert_right(case(rows, 6, 2, 333, 33, seed=rows), "triton")
    assert_right(case(rows, 2, 2, 70, 5, torch.bfloat16, seed=rows), "triton")


@pytest.mark.parametrize("impl", ["triton", XFORMERS])
@pytest.mark.parametrize("group", [1, 8])
def test_positions_past_the_length_have_no_influence(impl, group):
    query, keys, values, lengths = case(9, 2 * group, 2, 600, 64, torch.bfloat16)
    past = (torch.arange(600, device="cuda") >= lengths[:, None])[:, None, :, None]
    dirty = [x.masked_fill(past, math.nan) for x in (keys, values)]
    clean = decode_attention(query, keys, values, lengths, impl=impl)
    assert torch.equal(decode_attention(query, *dirty, lengths, impl=impl), clean)
    assert not clean[0].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 8])
def test_triton_rows_do_not_depend_on_their_neighbours_or_the_size_of_the_cache(dtype, group):
    query, keys, values, lengths = case(6, 2 * group, 2, 700, 64, dtype)
    whole = decode_attention(query, keys, values, lengths, impl="triton")
    order = torch.tensor([3, 1, 5], device="cuda")
    part = decode_attention(query[order], keys[order], values[order], lengths[order], impl="triton")
    assert torch.equal(whole[order], part)
    wider = [torch.nn.functional.pad(x, (0, 0, 0, 900)) for x in (keys, values)]
    assert torch.equal(decode_attention(query, *wider, lengths, impl="triton"), whole)


def test_the_cache_may_be_a_view_in_another_layout():
    query, keys, values, lengths = case(3, 4, 2, 300, 64, torch.bfloat16)
    expected = decode_attention(query, keys, values, lengths, impl="triton")
    large = torch.full((6, 350, 2, 128), math.nan, dtype=torch.bfloat16, device="cuda")
    large[::2, 5:305, :, :64] = keys.transpose(1, 2)
    large[::2, 5:305, :, 64:] = values.transpose(1, 2)
    window = large[::2, 5:305].transpose(1, 2)
    out = decode_attention(query, window[..., :64], window[..., 64:], lengths, impl="triton")
    assert torch.equal(out, expected)


def test_auto_takes_triton_and_a_captured_graph_follows_the_lengths():
    query, keys, values, lengths = case(4, 4, 2, 600, 64, torch.bfloat16)
    decode_attention(query, keys, values, lengths)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(query, keys, values, lengths)
    for more in (17, 400):
        lengths.copy_(torch.full_like(lengths, more))
        graph.replay()
        expected = decode_attention(query, keys, values, lengths, impl="triton")
        assert torch.equal(out, expected)


def test_a_length_outside_the_cache_is_taken_for_the_nearest_within():
    query, keys, values, _ = case(2, 2, 2, 50, 16)
    wild = torch.tensor([-3, 1000], device="cuda")
    tame = torch.tensor([0, 50], device="cuda")
    for impl in ("triton", "reference"):
        assert torch.equal(
            decode_attention(query, keys, values, wild, impl=impl),
            decode_attention(query, keys, values, tame, impl=impl),
        )
