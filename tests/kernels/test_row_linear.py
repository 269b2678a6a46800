"""row_linear: one row times a weight, whichever way it lies."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CPU_IMPLS,
    instruction_set,  # noqa: F401
    needs_native,
    normal,
)
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_within_error_rule
from torch import Tensor

from fairlead_kernels import KernelError, row_linear


def lying(weight: Tensor, inputs_first: bool) -> Tensor:
    return weight.t().contiguous().t() if inputs_first else weight


def check(actual: Tensor, row: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    linear = torch.nn.functional.linear
    wide = [one if one is None else one.double() for one in (row, weight, bias)]
    sizes = [one if one is None else one.abs() for one in wide]
    plain, exact, terms = linear(row, weight, bias), linear(*wide), linear(*sizes)
    assert_within_error_rule(actual, plain, exact, terms)


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_row_by_hand(impl: str, inputs_first: bool) -> None:
    """[1, 2] by [[3, 4], [5, 6], [-1, 0]]: 3 + 8, 5 + 12, -1; plus [0.5, 0, 1]."""
    weight = lying(torch.tensor([[3.0, 4.0], [5.0, 6.0], [-1.0, 0.0]]), inputs_first)
    row, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5, 0.0, 1.0])
    assert row_linear(row, weight, bias, impl=impl).tolist() == [[11.5, 17.0, 0.0]]
    assert row_linear(row, weight, impl=impl).tolist() == [[11.0, 17.0, -1.0]]


@needs_native
@pytest.mark.parametrize("inputs_first", [False, True])
@pytest.mark.parametrize("inputs", [1, 3, 127, 257])
@pytest.mark.parametrize("outputs", [1, 2, 1000])
def test_odd_shapes_are_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    inputs: int,
    outputs: int,
    inputs_first: bool,
) -> None:
    row, weight = normal(1, inputs), lying(normal(outputs, inputs, seed=1), inputs_first)
    bias = normal(outputs, seed=2)
    check(row_linear(row, weight, bias, impl="cpp"), row, weight, bias)


@needs_native
@given(st.integers(0, 70), st.integers(0, 70), st.booleans(), st.integers(0, 5), st.booleans())
def test_weights_within_a_larger_one_are_read_as_they_lie(
    inputs: int, outputs: int, inputs_first: bool, beyond: int, biased: bool
) -> None:
    large = lying(normal(outputs + beyond, inputs + beyond, seed=1), inputs_first)
    weight, row = large[:outputs, :inputs], normal(1, inputs)
    bias = normal(outputs, seed=2) if biased else None
    check(row_linear(row, weight, bias, impl="cpp"), row, weight, bias)


@needs_native
@pytest.mark.parametrize("inputs_first", [False, True])
def test_the_number_of_threads_changes_no_bit(inputs_first: bool) -> None:
    row, weight = normal(1, 300), lying(normal(1001, 300, seed=1), inputs_first)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(row_linear(row, weight, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("impl", CPU_IMPLS)
@pytest.mark.parametrize("inputs_first", [False, True])
def test_nan_and_infinity_reach_the_outputs_they_belong_to(impl: str, inputs_first: bool) -> None:
    weight = torch.ones(20, 9)
    weight[3, 8], weight[17, 0] = float("nan"), float("inf")
    found = row_linear(torch.ones(1, 9), lying(weight, inputs_first), impl=impl)[0]
    assert found[3].isnan()
    assert found[17] == float("inf")
    assert found[torch.arange(20) % 14 != 3].tolist() == [9.0] * 18


@needs_native
def test_what_the_kernel_does_not_take_is_said_and_left_to_torch() -> None:
    row, weight = normal(1, 4).bfloat16(), normal(3, 4).bfloat16()
    with pytest.raises(KernelError, match=r"float32, not torch\.bfloat16"):
        row_linear(row, weight, impl="cpp")
    assert row_linear(row, weight).dtype == torch.bfloat16
    with pytest.raises(KernelError, match="no gradient"):
        row_linear(normal(1, 4), normal(3, 4).requires_grad_(), impl="cpp")
    with pytest.raises(KernelError, match="contiguous in one dimension"):
        row_linear(normal(1, 4), normal(6, 8)[::2, ::2], impl="cpp")


@pytest.mark.parametrize(
    ("row", "weight", "bias", "message"),
    [
        (torch.ones(2, 4), torch.ones(3, 4), None, r"row must be floating \[1, I\], got \(2, 4\)"),
        (torch.ones(1, 4), torch.ones(3, 5), None, r"weight must be \[O, 4\], got \(3, 5\)"),
        (torch.ones(1, 4), torch.ones(3, 4), torch.ones(4), r"bias must be \[3\], got \(4,\)"),
        (torch.ones(1, 4), torch.ones(3, 4).double(), None, "weight must be torch.float32"),
    ],
)
def test_shapes_and_dtypes_that_do_not_fit_are_refused(
    row: Tensor, weight: Tensor, bias: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        row_linear(row, weight, bias)


@needs_native
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_does_not_matter(default: torch.dtype) -> None:
    """Room for bfloat16 numbers would be half of what is written."""
    row, weight = normal(1, 8), normal(300, 8, seed=1)
    expected, before = row_linear(row, weight, impl="cpp"), torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        found = row_linear(row, weight, impl="cpp")
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
