"""ragged_attention: causal attention within sequences that lie end to end."""

from __future__ import annotations

import math

import pytest
import torch
from cases import (
    CPU_IMPLS,
    instruction_set,  # noqa: F401
    needs_native,
    normal,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_within_error_rule
from torch import Tensor

from fairlead_kernels import ragged_attention

HALVES = [torch.bfloat16, torch.float16]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, int]


def case(
    lengths: list[int],
    heads: int,
    kv_heads: int,
    dim: int,
    rest: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """Query, keys and values as parts of one tensor, as a model has them, and the offsets."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    sizes = [heads * dim, kv_heads * dim, kv_heads * dim]
    together = normal(sum(lengths) + rest, sum(sizes)).to(dtype)
    query, keys, values = (one.unflatten(1, (-1, dim)) for one in together.split(sizes, 1))
    return query, keys, values, offsets, max(lengths, default=0)


def plainly(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """Each sequence by itself, in the tensors' own dtype, written out."""
    group, out = query.shape[1] // keys.shape[1], query * 0.0
    for begin, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
        q = query[begin:end].transpose(0, 1) / math.sqrt(query.shape[2])
        k, v = (x[begin:end].repeat_interleave(group, 1).transpose(0, 1) for x in (keys, values))
        future = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2)).masked_fill(future, -math.inf).softmax(-1)
        out[begin:end] = (weights @ v).transpose(0, 1)
    return out


def with_gradients(function, inputs: Inputs, upstream: Tensor) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in inputs[:3]]
    out = function(*leaves, *inputs[3:])
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream, materialize_grads=True)]


def check(inputs: Inputs) -> None:
    upstream = normal(*inputs[0].shape, seed=9).to(inputs[0].dtype)

    def kernel(*args):
        return ragged_attention(*args, impl="cpp")

    def plain(*args):
        return plainly(*args[:4])

    ours = with_gradients(kernel, inputs, upstream)
    theirs = with_gradients(plain, inputs, upstream)
    wide = (*(one.double() for one in inputs[:3]), *inputs[3:])
    exact = with_gradients(plain, wide, upstream.double())
    sizes = added_up(*(one.double().abs() for one in inputs[:3]), upstream.double().abs())
    for found, torchs, right, size in zip(ours, theirs, exact, sizes, strict=True):
        assert_within_error_rule(found, torchs, right, torch.full_like(right, size))


def added_up(query: Tensor, keys: Tensor, values: Tensor, upstream: Tensor) -> list[float]:
    """Sizes of what cancels: of a result the values, of a score's gradient two products of them."""
    if not len(query):
        return [0.0] * 4
    group = query.shape[1] // keys.shape[1]
    q, k, v = (float(one.max()) for one in (query, keys, values))
    of_score = float((upstream * values.repeat_interleave(group, 1)).sum(2).max())
    of_score /= math.sqrt(query.shape[2])
    return [v, of_score * k, of_score * q * group, float(upstream.max()) * group]


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_two_sequences_by_hand(impl: str) -> None:
    """Scores are 0, so that a position gets the mean of the values up to it, of its own sequence.

    The first has values 1 and 3: 1, then (1 + 3) / 2. The second has 10, and the last position is
    nobody's. With upstream gradients of 1, value 1 gets 1 + 1/2, value 3 gets 1/2, and 10 gets 1.
    """
    zeros = torch.zeros(4, 1, 1)
    values = torch.tensor([1.0, 3.0, 10.0, 99.0]).view(4, 1, 1).requires_grad_()
    out = ragged_attention(zeros, zeros, values, torch.tensor([0, 2, 3]), 2, impl=impl)
    assert out.flatten().tolist() == [1.0, 2.0, 10.0, 0.0]
    out.sum().backward()
    assert values.grad.flatten().tolist() == [1.5, 0.5, 1.0, 0.0]


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_scores_are_scaled_and_softened_by_hand(impl: str) -> None:
    """Scores log 3 and 0 times a scale of 1: weights 3/4 and 1/4 of the values 4 and 8."""
    query = torch.tensor([[[0.0]], [[1.0]]])
    keys = torch.tensor([math.log(3.0), 0.0]).view(2, 1, 1)
    values = torch.tensor([4.0, 8.0]).view(2, 1, 1)
    out = ragged_attention(query, keys, values, torch.tensor([0, 2]), 2, scale=1.0, impl=impl)
    torch.testing.assert_close(out.flatten(), torch.tensor([4.0, 5.0]))


@needs_native
@pytest.mark.parametrize("lengths", [[], [1], [0, 3, 0, 127], [257], [6, 24, 25, 48]])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 1), (4, 2, 20), (6, 1, 64)])
def test_odd_shapes_are_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    lengths: list[int],
    heads: int,
    kv_heads: int,
    dim: int,
) -> None:
    check(case(lengths, heads, kv_heads, dim, rest=2))


@needs_native
@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), max_size=5),
    st.sampled_from([(1, 1), (4, 4), (4, 2)]),
    st.integers(1, 70),
    st.integers(0, 3),
)
def test_any_lengths_are_within_the_error_rule(
    lengths: list[int], heads: tuple[int, int], dim: int, rest: int
) -> None:
    check(case(lengths, *heads, dim, rest))


@needs_native
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    dtype: torch.dtype,
) -> None:
    check(case([5, 40, 1], 4, 2, 20, rest=1, dtype=dtype))


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_sequences_and_nobodys_positions_have_no_influence_on_others(impl: str) -> None:
    *clean, offsets, longest = case([7, 5], 2, 1, 8, rest=3)
    spoilt = [one.clone() for one in clean]
    for one in spoilt:
        one[:7] = math.nan
        one[12:] = math.nan
    upstream = normal(15, 2, 8, seed=9)

    def kernel(*args):
        return ragged_attention(*args, impl=impl)

    found = with_gradients(kernel, (*spoilt, offsets, longest), upstream)
    alone = with_gradients(kernel, (*clean, offsets, longest), upstream)
    for one, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(one[7:12], expected[7:12])
    assert bool(found[0][:7].isnan().all())
    assert not found[0][12:].any()


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_no_positions_give_none(impl: str) -> None:
    none = torch.zeros(0, 2, 8)
    out = ragged_attention(none, none, none, torch.tensor([0, 0, 0]), 3, impl=impl)
    assert out.shape == (0, 2, 8)


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_autocast_changes_nothing(impl: str) -> None:
    inputs = case([7, 5], 2, 1, 8)
    plain = ragged_attention(*inputs, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ragged_attention(*inputs, impl=impl), plain)


@needs_native
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_computed_in_float32_and_rounded_once(
    instruction_set: str,  # noqa: F811
    dtype: torch.dtype,
) -> None:
    query, keys, values, offsets, longest = case([5, 40, 1], 4, 2, 20, dtype=dtype)
    exact = plainly(query.double(), keys.double(), values.double(), offsets).to(dtype)
    ours = ragged_attention(query, keys, values, offsets, longest, impl="cpp")
    torch.testing.assert_close(ours, exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_no_position_sees_a_later_one(impl: str) -> None:
    query, keys, values, offsets, longest = case([9], 2, 2, 8)
    before = ragged_attention(query, keys, values, offsets, longest, impl=impl)
    keys, values = keys.clone(), values.clone()
    keys[6:], values[6:] = 5.0, -5.0
    after = ragged_attention(query, keys, values, offsets, longest, impl=impl)
    assert torch.equal(before[:6], after[:6])
    assert not torch.equal(before[6:], after[6:])


@needs_native
def test_a_result_depends_on_its_own_sequence_alone_and_not_on_the_threads() -> None:
    inputs = case([90, 3, 150], 4, 2, 32)
    upstream = normal(*inputs[0].shape, seed=9)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(with_gradients(ragged_attention, inputs, upstream))
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        assert all(map(torch.equal, one, found[0]))
    last = (*(one[93:] for one in inputs[:3]), torch.tensor([0, 150]), 150)
    alone = with_gradients(ragged_attention, last, upstream[93:])
    assert all(torch.equal(one, whole[93:]) for one, whole in zip(alone, found[0], strict=True))


@needs_native
def test_scores_of_minus_infinity_and_not_a_number() -> None:
    """A key at -inf gets no weight; a NaN in what is seen is seen, to the end of the sequence."""
    ones = torch.ones(3, 1, 1)
    keys = torch.tensor([1.0, -math.inf, 1.0]).view(3, 1, 1)
    values = torch.tensor([1.0, 100.0, 3.0]).view(3, 1, 1)
    offsets = torch.tensor([0, 3])
    assert ragged_attention(ones, keys, values, offsets, 3, impl="cpp").tolist() == [
        [[1.0]],
        [[1.0]],
        [[2.0]],
    ]
    values[1] = math.nan
    lost = ragged_attention(ones, ones, values, offsets, 3, impl="cpp").isnan()
    assert lost[1:].all()


@needs_native
def test_an_upstream_gradient_may_be_spread_out_or_in_another_order() -> None:
    inputs = case([7, 4], 3, 3, 8)
    for upstream in (torch.ones(1).expand(11, 3, 8), normal(3, 11, 8).transpose(0, 1)):
        found = with_gradients(ragged_attention, inputs, upstream)
        expected = with_gradients(ragged_attention, inputs, upstream.contiguous())
        assert all(map(torch.equal, found, expected))


@needs_native
def test_a_second_derivative_is_an_error() -> None:
    query, *others = case([3], 1, 1, 4)
    leaf = query.detach().requires_grad_()
    out = ragged_attention(leaf, *others, impl="cpp").pow(2).sum()
    (first,) = torch.autograd.grad(out, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="ragged_attention has no second derivative"):
        first.sum().backward()


@needs_native
def test_the_torch_operations_pass_opcheck() -> None:
    ops = torch.ops.fairlead_kernels
    query, keys, values, offsets, _ = case([5, 0, 3], 4, 2, 8, rest=1)
    leaves = [one.detach().requires_grad_() for one in (query, keys, values)]
    torch.library.opcheck(ops.ragged_attention.default, (*leaves, offsets, 0.3))
    out, logsums = ops.ragged_attention(query, keys, values, offsets, 0.3)
    given = (torch.ones_like(out), query, keys, values, offsets, out, logsums, 0.3)
    torch.library.opcheck(ops.ragged_attention_backward.default, given)
    with pytest.raises(ValueError, match="logsums must be"):
        ops.ragged_attention_backward(*given[:6], logsums[:-1], 0.3)
    with pytest.raises(ValueError, match="the result must be as the query"):
        ops.ragged_attention_backward(*given[:5], out[:-1].contiguous(), logsums, 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(5, 4)}, "query must be"),
        ({"query": torch.zeros(5, 3, 8)}, "no multiple"),
        ({"keys": torch.zeros(4, 2, 8)}, "keys must be"),
        ({"values": torch.zeros(5, 2, 8).bfloat16()}, "values must be"),
        ({"offsets": torch.tensor([0, 5], dtype=torch.int32)}, "offsets must be"),
        ({"offsets": torch.tensor([0, 3, 2])}, "offsets must rise from 0 to at most 5"),
        ({"offsets": torch.tensor([1, 5])}, "offsets must rise from 0"),
        ({"offsets": torch.tensor([0, 6]), "longest": 6}, "at most 5"),
        ({"longest": 2}, "a sequence has 3 positions, longest says 2"),
        ({"scale": math.inf}, "scale"),
        ({"query": torch.zeros(5, 4, 16)[..., ::2]}, "must be contiguous"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], message: str) -> None:
    query, keys, values, offsets, longest = case([2, 3], 4, 2, 8)
    right = {"query": query, "keys": keys, "values": values, "offsets": offsets, "longest": longest}
    with pytest.raises(ValueError, match=message):
        ragged_attention(**{**right, **change})


@needs_native
def test_the_kernel_looks_at_offsets_itself() -> None:
    query, keys, values, _, _ = case([2, 3], 4, 2, 8)
    for offsets in ([0, 9], [0, 4, 2], [1, 5]):
        with pytest.raises(ValueError, match="offsets must rise"):
            torch.ops.fairlead_kernels.ragged_attention(
                query, keys, values, torch.tensor(offsets), 0.3
            )
