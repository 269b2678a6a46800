"""add_layer_norm: a residual sum and its layer normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from cases import (
    CPU_IMPLS,
    ODD_ROWS,
    instruction_set,  # noqa: F401
    needs_native,
    normal,
)
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_within_error_rule
from torch import Tensor

from fairlead_kernels import add_layer_norm

EPS = 1e-5


def case(*shape: int, seed: int = 0) -> tuple[Tensor, ...]:
    width = shape[-1:]
    rows = (normal(*shape, seed=seed + n) for n in range(2))
    return (*rows, normal(*width, seed=seed + 2), normal(*width, seed=seed + 3))


def check(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS) -> None:
    given = (x, other, weight, bias)
    total, normed = add_layer_norm(*given, eps, impl="cpp")
    plain_total, plain = add_layer_norm(*given, eps, impl="reference")
    assert torch.equal(total, plain_total)
    _, exact = add_layer_norm(*(one.double() for one in given), eps, impl="reference")
    # By what a rounding of the mean, or of the largest number, is multiplied.
    sums = plain_total.double()
    off = sums - sums.mean(-1, keepdim=True)
    spread = (off.square().mean(-1, keepdim=True) + eps).sqrt()
    largest = sums.abs().amax(-1, keepdim=True) / spread
    terms = (exact - bias.double()).abs() + largest * weight.double().abs() + bias.double().abs()
    assert_within_error_rule(normed, plain, exact, terms)


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_a_row_by_hand(impl: str) -> None:
    """[1, 2, 3, 6] + [0, 1, 2, 1] = [1, 3, 5, 7]: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5.

    With eps 4 it is divided by 3: [-1, -1/3, 1/3, 1], times [3, 3, 6, 3], plus [0, 1, 0, 0].
    """
    x, other = torch.tensor([[1.0, 2.0, 3.0, 6.0]]), torch.tensor([[0.0, 1.0, 2.0, 1.0]])
    weight, bias = torch.tensor([3.0, 3.0, 6.0, 3.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    total, normed = add_layer_norm(x, other, weight, bias, 4.0, impl)
    assert total.tolist() == [[1.0, 3.0, 5.0, 7.0]]
    torch.testing.assert_close(normed, torch.tensor([[-3.0, 0.0, 2.0, 3.0]]), atol=1e-6, rtol=0)


@needs_native
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize("width", [1, 3, 16, 127, 257, 2000])
def test_odd_shapes_are_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    rows: int,
    width: int,
) -> None:
    check(*case(rows, width))


@needs_native
@given(
    st.lists(st.integers(0, 5), max_size=2), st.integers(1, 70), st.integers(0, 9), st.floats(0, 2)
)
def test_any_shape_is_within_the_error_rule(
    before: list[int], width: int, seed: int, eps: float
) -> None:
    check(*case(*before, width, seed=seed), eps + 1e-6)


@needs_native
def test_a_mean_far_from_zero_costs_no_more_than_it_has_to(instruction_set: str) -> None:  # noqa: F811
    x, other, weight, bias = case(5, 300)
    check(x + 1000, other, weight, bias)


@needs_native
def test_a_row_depends_on_itself_alone_whatever_the_number_of_threads() -> None:
    x, other, weight, bias = case(300, 384)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(add_layer_norm(x, other, weight, bias, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    alone = add_layer_norm(x[7:8], other[7:8], weight, bias, impl="cpp")
    for one in found:
        assert all(map(torch.equal, one, found[0]))
        assert all(torch.equal(part[7:8], row) for part, row in zip(one, alone, strict=True))


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_makes_its_row_nan_and_no_other(impl: str, bad: float) -> None:
    x, other, weight, bias = case(3, 40)
    x[1, 5] = bad
    total, normed = add_layer_norm(x, other, weight, bias, impl=impl)
    assert normed[1].isnan().all()
    assert normed[::2].isfinite().all()
    assert torch.equal(total[1].isfinite(), torch.arange(40) != 5)


@needs_native
def test_memory_in_another_order_is_read_as_it_is() -> None:
    x, other, weight, bias = case(6, 40)
    expected = add_layer_norm(x, other, weight, bias, impl="cpp")
    turned = (x.t().contiguous().t(), other.repeat(1, 2)[:, :40], weight.repeat(2, 1).t()[:, 0])
    for one, same in zip(add_layer_norm(*turned, bias, impl="cpp"), expected, strict=True):
        assert torch.equal(one, same)


def test_what_it_does_not_take_is_an_error_that_says_so() -> None:
    x, other, weight, bias = case(3, 4)
    with pytest.raises(ValueError, match=r"x must be floating \[\.\.\., D\] with D > 0, got"):
        add_layer_norm(x.long(), other, weight, bias)
    with pytest.raises(
        ValueError, match=r"other must be \(3, 4\) torch.float32 on cpu, got \(4,\)"
    ):
        add_layer_norm(x, other[0], weight, bias)
    with pytest.raises(
        ValueError, match=r"bias must be \(4,\) torch.float32 on cpu, got .*float64"
    ):
        add_layer_norm(x, other, weight, bias.double())
    for eps in (-1.0, math.nan):
        with pytest.raises(ValueError, match="eps must be"):
            add_layer_norm(x, other, weight, bias, eps)


@needs_native
def test_float64_and_gradients_are_left_to_the_reference() -> None:
    wide = [one.double() for one in case(3, 4)]
    assert add_layer_norm(*wide)[1].dtype == torch.float64
    leaf = wide[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: add_layer_norm(x, *wide[1:]), leaf)
    x, *others = case(3, 4)
    total, normed = add_layer_norm(x.requires_grad_(), *others)
    assert total.requires_grad
    assert normed.requires_grad


@needs_native
def test_the_torch_operation_passes_opcheck_and_refuses_what_it_cannot_read() -> None:
    operation = torch.ops.fairlead_kernels.add_layer_norm
    x, other, weight, bias = case(3, 4)
    torch.library.opcheck(operation.default, (x, other, weight, bias, EPS))
    with pytest.raises(ValueError, match="contiguous"):
        operation(normal(4, 3).t(), other, weight, bias, EPS)
    with pytest.raises(ValueError, match="weight must be"):
        operation(x, other, weight[:3], bias, EPS)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        operation(x, other, weight, bias, -1.0)
