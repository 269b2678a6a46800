import math

import pytest
import torch
import torch.nn.functional as F
from attention import (
    CPP,
    DTYPES,
    IMPLS,
    TRITON,
    assert_right,
    case,
    needs_interpreter,
    needs_native,
)
from cases import ODD_ROWS, instruction_set, normal  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_within_error_rule

from fairlead_kernels import KernelError, decode_attention, list_implementations


@pytest.mark.parametrize("impl", IMPLS)
def test_two_keys_by_hand(impl):
    """Scores log 3 and 0 by scale 0.5: weights 3/4 and 1/4; the third position does not count.

    0.75 [1, 2] + 0.25 [5, 10] = [2, 4].
    """
    query = torch.tensor([[[2.0, 0.0]]])
    keys = torch.tensor([[[[math.log(3.0), 9.0], [0.0, -9.0], [7.0, 7.0]]]])
    values = torch.tensor([[[[1.0, 2.0], [5.0, 10.0], [100.0, 100.0]]]])
    out = decode_attention(query, keys, values, torch.tensor([2]), scale=0.5, impl=impl)
    exact = torch.tensor([[[2.0, 4.0]]], dtype=torch.float64)
    assert_within_error_rule(out, exact.float(), exact)


@pytest.mark.parametrize("impl", IMPLS)
def test_each_query_head_reads_the_key_head_of_its_group(impl):
    """Four query heads, two key heads: heads 0 and 1 read the first, 2 and 3 the second."""
    values = torch.tensor([[[[1.0]], [[2.0]]]])
    out = decode_attention(
        torch.zeros(1, 4, 1), torch.zeros(1, 2, 1, 1), values, torch.tensor([1]), impl=impl
    )
    assert out.flatten().tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("impl", ["reference", CPP])
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 64), (8, 1, 32), (6, 2, 33)])
def test_error_rule_on_odd_shapes(impl, rows, heads, kv_heads, dim):
    assert_right(case(rows, heads, kv_heads, 37, dim, seed=rows), impl)


@pytest.mark.parametrize(
    ("impl", "dtype"),
    [
        *[("reference", dtype) for dtype in DTYPES],
        *[pytest.param("cpp", dtype, marks=needs_native) for dtype in DTYPES],
        pytest.param("triton", torch.float32, marks=needs_interpreter),
        pytest.param("triton", torch.float16, marks=needs_interpreter),
    ],
)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "positions", "dim"),
    [(1, 1, 1, 1), (2, 2, 70, 80), (8, 1, 300, 5), (6, 2, 130, 128)],
)
def test_error_rule_in_every_dtype_and_grouping(impl, dtype, heads, kv_heads, positions, dim):
    assert_right(case(3, heads, kv_heads, positions, dim, dtype), impl)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [1023, 1024, 1025, 3000])
def test_long_rows_in_pieces(dtype, positions):
    assert_right(case(3, 4, 2, positions, 24, dtype), "cpp")


@settings(max_examples=60)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 100),
    st.integers(1, 70),
    st.sampled_from(DTYPES),
    st.integers(0, 2**16),
)
@needs_native
def test_cpp_keeps_the_error_rule_on_any_shape(rows, kv_heads, group, positions, dim, dtype, seed):
    assert_right(case(rows, kv_heads * group, kv_heads, positions, dim, dtype, seed), "cpp")


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_positions_past_the_length_have_no_influence(impl, group, poison):
    """Fidelity item 33: bitwise, whatever the cache holds there."""
    query, keys, values, lengths = case(5, 2 * group, 2, 70, 20)
    past = (torch.arange(70) >= lengths[:, None])[:, None, :, None]
    dirty = keys.masked_fill(past, poison), values.masked_fill(past, poison)
    clean = decode_attention(query, keys, values, lengths, impl=impl)
    assert torch.equal(decode_attention(query, *dirty, lengths, impl=impl), clean)
    assert not clean[0].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_within_the_length_shows_in_its_head_alone(impl):
    query, keys, values, _ = case(2, 4, 2, 40, 20)
    lengths = torch.tensor([40, 40])
    clean = decode_attention(query, keys, values, lengths, impl=impl)
    keys[0, 1, 7, 3] = math.nan
    values[1, 0, 9, 5] = math.nan
    out = decode_attention(query, keys, values, lengths, impl=impl)
    expected = clean.clone()
    expected[0, 2:] = math.nan
    expected[1, :2, 5] = math.nan
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0), expected.nan_to_num(0))


@pytest.mark.parametrize("impl", IMPLS)
def test_infinite_scores_are_as_in_torch(impl):
    """-inf: no weight. All -inf, or one +inf: NaN."""
    keys = torch.zeros(3, 1, 100, 2)
    keys[0, 0, :99, 0] = -math.inf
    keys[1, 0, :, 0] = -math.inf
    keys[2, 0, 50, 0] = math.inf
    values = torch.arange(200.0).view(1, 1, 100, 2).repeat(3, 1, 1, 1)
    lengths, query = torch.tensor([100, 100, 100]), torch.tensor([1.0, 0.0]).expand(3, 1, 2)
    out = decode_attention(query, keys, values, lengths, impl=impl)
    assert out[0, 0].tolist() == [198.0, 199.0]
    assert bool(out[1:].isnan().all())


@pytest.mark.parametrize("impl", IMPLS)
def test_scores_far_apart_neither_overflow_nor_vanish(impl):
    """The largest score comes first, in the middle or last: it alone has weight."""
    positions = 1500  # several splits of triton's, two pieces of cpp's
    for best in (0, 45, 700, 1499):
        keys = torch.full((1, 1, positions, 1), -1e4)
        keys[0, 0, best] = 1e4
        values = torch.arange(float(positions)).view(1, 1, positions, 1)
        lengths = torch.tensor([positions])
        out = decode_attention(torch.ones(1, 1, 1), keys, values, lengths, impl=impl)
        assert out.item() == best


@pytest.mark.parametrize("impl", [CPP, TRITON])
@pytest.mark.parametrize(("positions", "group"), [(40, 1), (300, 4)])
def test_a_result_depends_on_its_own_row_alone(impl, positions, group):
    """Fidelity item 33: bitwise, in any batch and order, and in a cache of any size."""
    query, keys, values, lengths = case(6, 2 * group, 2, positions, 16)
    whole = decode_attention(query, keys, values, lengths, impl=impl)
    order = torch.tensor([3, 1, 5])
    part = decode_attention(query[order], keys[order], values[order], lengths[order], impl=impl)
    assert torch.equal(whole[order], part)
    wider = [F.pad(x, (0, 0, 0, 900)) for x in (keys, values)]
    assert torch.equal(decode_attention(query, *wider, lengths, impl=impl), whole)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpp_rows_do_not_depend_on_longer_ones(dtype):
    """A short row has the same bits beside one of several pieces."""
    query, keys, values, _ = case(3, 4, 2, 2500, 32, dtype)
    lengths = torch.tensor([1024, 2500, 77])
    whole = decode_attention(query, keys, values, lengths, impl="cpp")
    for row in range(3):
        one = slice(row, row + 1)
        alone = decode_attention(query[one], keys[one], values[one], lengths[one], impl="cpp")
        assert torch.equal(alone, whole[one])


@needs_native
def test_cpp_has_the_same_bits_on_any_number_of_threads():
    # One cache for all rows: enough work for several threads to be at it at once.
    _, keys, values, _ = case(1, 8, 2, 2100, 64)
    keys, values = (x.expand(100, -1, -1, -1) for x in (keys, values))
    query, lengths = normal(100, 8, 64), 2100 - torch.arange(100)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(decode_attention(query, keys, values, lengths, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("impl", IMPLS)
def test_the_cache_may_be_a_view_in_another_layout(impl):
    query, keys, values, lengths = case(3, 4, 2, 40, 24)
    expected = decode_attention(query, keys, values, lengths, impl=impl)
    # [rows, positions, key heads, 2 x dim], a part of a larger one.
    large = torch.full((6, 50, 2, 48), math.nan)
    large[::2, 5:45, :, :24] = keys.transpose(1, 2)
    large[::2, 5:45, :, 24:] = values.transpose(1, 2)
    wide_query = torch.full((3, 5, 30), math.nan)
    wide_query[:, 1:, 3:27] = query
    window = large[::2, 5:45].transpose(1, 2)
    views = wide_query[:, 1:, 3:27], window[..., :24], window[..., 24:], lengths
    assert_right(views, impl)
    # One query and one cache for every row, without a copy of them.
    same = [x[:1].expand(3, *x.shape[1:]) for x in (query, keys, values)]
    assert_right((*same, lengths), impl)
    if impl != "reference":
        assert torch.equal(decode_attention(*views, impl=impl), expected)
        mixed = query, keys, window[..., 24:], lengths
        assert torch.equal(decode_attention(*mixed, impl=impl), expected)


@pytest.mark.parametrize("impl", ["reference", CPP])
def test_a_float32_query_on_a_half_precision_cache_gives_float32(impl):
    query, keys, values, lengths = case(3, 4, 2, 40, 24)
    assert_right((query, keys.bfloat16(), values.bfloat16(), lengths), impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rows", "heads", "positions"), [(0, 2, 5), (2, 2, 0), (2, 0, 5)])
def test_empty_batch_empty_cache_and_no_heads(impl, rows, heads, positions):
    query, cache = torch.ones(rows, heads, 8), torch.ones(rows, 1, positions, 8)
    lengths = torch.zeros(rows, dtype=torch.int64)
    out = decode_attention(query, cache, cache, lengths, impl=impl)
    assert torch.equal(out, torch.zeros(rows, heads, 8))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [-1, 6, 2**62])
def test_a_length_outside_the_cache_is_an_error(impl, length):
    cache = torch.zeros(2, 1, 5, 8)
    with pytest.raises(ValueError, match=rf"within 0\.\.5.* {length}"):
        decode_attention(torch.zeros(2, 1, 8), cache, cache, torch.tensor([3, length]), impl=impl)


def test_wrong_arguments_are_errors():
    query, cache, lengths = torch.zeros(2, 4, 8), torch.zeros(2, 2, 5, 8), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="query must be"):
        decode_attention(query[0], cache, cache, lengths)
    with pytest.raises(ValueError, match="query must be"):
        decode_attention(query.double(), cache, cache, lengths)
    with pytest.raises(ValueError, match=r"keys must be \[2, Hkv, S, 8\]"):
        decode_attention(query, cache[:1], cache, lengths)
    with pytest.raises(ValueError, match="values must be"):
        decode_attention(query, cache, cache.bfloat16(), lengths)
    with pytest.raises(ValueError, match="no multiple"):
        decode_attention(query[:, :3], cache, cache, lengths)
    with pytest.raises(ValueError, match="lengths must be"):
        decode_attention(query, cache, cache, lengths.int())
    with pytest.raises(ValueError, match="last dimension of values"):
        decode_attention(query, cache, cache.transpose(2, 3).contiguous().mT, lengths)
    with pytest.raises(ValueError, match="scale"):
        decode_attention(query, cache, cache, lengths, scale=math.nan)
    with pytest.raises(ValueError, match="one device"):
        decode_attention(query, cache.to("meta"), cache.to("meta"), lengths)


def test_a_gradient_is_refused():
    query = torch.zeros(1, 1, 8, requires_grad=True)
    cache, lengths = torch.zeros(1, 1, 5, 8), torch.tensor([1])
    with pytest.raises(ValueError, match=r"query requires a gradient.*no_grad"):
        decode_attention(query, cache, cache, lengths)
    with torch.no_grad():
        decode_attention(query, cache, cache, lengths)


@needs_native
def test_no_address_leaves_python_unchecked():
    query, cache, lengths = torch.zeros(2, 4, 8), torch.zeros(2, 2, 5, 8), torch.tensor([1, 2])
    for wrong in (
        (query.double(), cache, cache, lengths),
        (query, cache[:1], cache, lengths),
        (query, cache, cache[:, :, :4], lengths),
        (query, cache, cache.half(), lengths),
        (query[:, :3], cache, cache, lengths),
        (query, cache, cache, lengths.int()),
        (query, cache, cache, torch.arange(4)[::2]),
        (query, cache.transpose(2, 3).contiguous().mT, cache, lengths),
        (query, cache, cache, lengths + 4),
    ):
        with pytest.raises(ValueError, match="decode_attention"):
            torch.ops.fairlead_kernels.triton_decode_attention(*wrong, 1.0)
        with pytest.raises(ValueError, match="decode_attention"):
            torch.ops.fairlead_kernels.decode_attention(*wrong, 1.0)


@needs_native
@needs_interpreter
@pytest.mark.parametrize(("heads", "dim"), [(48, 128), (71, 64)])
def test_more_heads_than_fit_into_a_gpu_are_refused_by_triton(heads: int, dim: int) -> None:
    """StarCoder's and Falcon's: in float32 48 x 128 x 4 = 24 KiB, 71 x 64 x 4 = 17.75 KiB."""
    with pytest.raises(KernelError, match=f"{heads} heads of {dim} numbers that share keys"):
        decode_attention(*case(1, heads, 1, 5, dim), 1.0, impl="triton")


def test_auto_takes_cpp_and_a_refused_implementation_is_named():
    rows = {r.impl: r for r in list_implementations() if r.op == "decode_attention"}
    assert rows["cpp"].auto
    query, keys, values, lengths = case(2, 2, 2, 5, 8)
    with pytest.raises(KernelError, match=r"triton.*cache's dtype"):
        decode_attention(query, keys.half(), values.half(), lengths, impl="triton")


@needs_interpreter
def test_the_interpreter_is_not_asked_for_bfloat16():
    with pytest.raises(KernelError, match=r"interpreter.*bfloat16"):
        decode_attention(*case(1, 1, 1, 5, 8, torch.bfloat16), impl="triton")


@needs_native
def test_the_torch_operation_passes_opcheck():
    for rows, dtype in ((0, torch.float32), (3, torch.float32), (3, torch.bfloat16)):
        inputs = case(rows, 4, 2, 20, 8, dtype)
        torch.library.opcheck(torch.ops.fairlead_kernels.decode_attention.default, (*inputs, 0.25))


@needs_native
def test_torch_compile_goes_through_it():
    inputs = case(3, 4, 2, 20, 8)

    def step(query, keys, values, lengths):
        return torch.ops.fairlead_kernels.decode_attention(query * 2, keys, values, lengths, 0.5)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), step(*inputs))


def appended(query, key, value, keys, values, lengths, scale):
    """What storing first and attending then gives, and leaves behind."""
    keys, values, rows = keys.clone(), values.clone(), torch.arange(len(lengths))
    keys[rows, :, lengths - 1] = key.to(keys.dtype)
    values[rows, :, lengths - 1] = value.to(values.dtype)
    return decode_attention(query, keys, values, lengths, scale, impl="cpp"), keys, values


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [1, 40, 1024, 2500])
def test_a_step_stores_what_is_new_and_attends_to_it(dtype, positions, instruction_set):  # noqa: F811
    """Bitwise what the two operations give; rows of one piece and of several."""
    query, keys, values, lengths = case(5, 6, 2, positions, 24, dtype)
    lengths = lengths.clamp(min=1)
    # Of a projection of all three at once, as a model has it.
    joint = normal(5, 10, 24, seed=9)
    new = joint[:, 6:8], joint[:, 8:]
    expected = appended(query, *new, keys, values, lengths, 0.3)
    out = torch.ops.fairlead_kernels.append_attention(query, *new, keys, values, lengths, 0.3)
    for ours, right in zip((out, keys, values), expected, strict=True):
        assert torch.equal(ours, right)


@needs_native
def test_a_step_that_cannot_be_stored_leaves_the_cache_alone():
    query, keys, values, lengths = case(2, 2, 2, 5, 8)
    new, before = normal(2, 2, 8, seed=7), keys.clone()
    step = torch.ops.fairlead_kernels.append_attention
    for wrong, message in (
        ((query, new, new, keys, values, torch.tensor([3, 0]), 1.0), r"within 1\.\.5, row 1 has 0"),
        ((query, new, new, keys, values, torch.tensor([6, 1]), 1.0), r"within 1\.\.5, row 0 has 6"),
        ((query, new[:1], new, keys, values, lengths, 1.0), "key must be"),
        ((query, new, new.double(), keys, values, lengths, 1.0), "value must be"),
        ((query, new.mT.contiguous().mT, new, keys, values, lengths, 1.0), "dimension of key"),
        ((query, new, new, keys[:1].expand(2, -1, -1, -1), values, lengths, 1.0), "are expanded"),
        ((query[:1], new, new, keys, values, lengths, 1.0), "keys must be"),
    ):
        with pytest.raises(ValueError, match=message):
            step(*wrong)
    assert torch.equal(keys, before)


@needs_native
def test_a_step_passes_opcheck():
    query, keys, values, _ = case(3, 4, 2, 20, 8)
    new, lengths = normal(3, 2, 8, seed=7), torch.tensor([1, 20, 7])
    torch.library.opcheck(
        torch.ops.fairlead_kernels.append_attention.default,
        (query, new, new.clone(), keys, values, lengths, 0.25),
    )
