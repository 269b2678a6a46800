"""packed_linear: a linear layer whose weight is laid out in panels."""

from __future__ import annotations

import math
from typing import Any

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
from torch.nn import functional

from fairlead_kernels import KernelError, pack_weight, packed_linear


def check(rows: Tensor, weight: Tensor, bias: Tensor | None, impl: str = "cpp") -> Tensor:
    actual = packed_linear(rows, pack_weight(weight), len(weight), bias, impl=impl)
    linear = functional.linear
    wide = [one if one is None else one.double() for one in (rows, weight, bias)]
    sizes = [one if one is None else one.abs() for one in wide]
    plain, exact, terms = linear(rows, weight, bias), linear(*wide), linear(*sizes)
    assert_within_error_rule(actual, plain, exact, terms)
    return actual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_panel_has_16_outputs_side_by_side_and_zeros_past_the_last(dtype: torch.dtype) -> None:
    """[18, 2], weight[o, i] = 10 o + i: panel 1 holds outputs 16 and 17, of inputs 0 and 1."""
    weight = (10.0 * torch.arange(18.0)[:, None] + torch.arange(2.0)).to(dtype)
    panels = pack_weight(weight)
    assert panels.shape == (2, 2, 16)
    assert panels[0, 1].tolist() == [10.0 * o + 1 for o in range(16)]
    assert panels[1].tolist() == [[160.0, 170.0, *[0.0] * 14], [161.0, 171.0, *[0.0] * 14]]


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_weight_is_laid_out_however_it_lies(outputs: int, inputs: int) -> None:
    weight = normal(outputs, inputs)
    back = pack_weight(weight).transpose(1, 2).flatten(0, 1)
    assert torch.equal(back[:outputs], weight)
    assert not back[outputs:].any()
    turned = pack_weight(weight.t().contiguous().t())
    assert torch.equal(turned, pack_weight(weight))
    assert turned.is_contiguous()


def test_panels_are_a_copy_even_where_the_weight_lies_as_they_do() -> None:
    """One panel of a weight that lies [I, O] is that weight: trained on, it would change it."""
    weight = normal(3, 16).t()
    panels = pack_weight(weight)
    weight.zero_()
    assert panels.any()


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_two_rows_by_hand(impl: str) -> None:
    """By [[3, 4], [5, 6], [-1, 0]]: [1, 2] gives 3 + 8, 5 + 12, -1, and [2, 0] 6, 10, -2."""
    weight = torch.tensor([[3.0, 4.0], [5.0, 6.0], [-1.0, 0.0]])
    rows, bias = torch.tensor([[1.0, 2.0], [2.0, 0.0]]), torch.tensor([0.5, 0.0, 1.0])
    panels = pack_weight(weight)
    found = packed_linear(rows, panels, 3, bias, impl=impl)
    assert found.tolist() == [[11.5, 17.0, 0.0], [6.5, 10.0, -1.0]]
    assert packed_linear(rows, panels, 3, impl=impl).tolist() == [[11, 17, -1], [6, 10, -2]]


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_gelu_of_the_sum_by_hand(impl: str) -> None:
    """0.5 * 2 (1 + tanh(sqrt(2 / pi) (2 + 0.044715 * 8))) for 1 * 1.5 + 0.5, and 0 for 0."""
    expected = 1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8))
    panels = pack_weight(torch.tensor([[1.0], [0.0]]))
    bias = torch.tensor([0.5, 0.0])
    found = packed_linear(torch.tensor([[1.5]]), panels, 2, bias, gelu=True, impl=impl)
    torch.testing.assert_close(found, torch.tensor([[expected, 0.0]]))


@needs_native
@pytest.mark.parametrize("count", ODD_ROWS)
@pytest.mark.parametrize("inputs", [1, 3, 127, 256, 257, 700])
@pytest.mark.parametrize("outputs", [1, 2, 1000])
def test_odd_shapes_are_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    count: int,
    inputs: int,
    outputs: int,
) -> None:
    check(normal(count, inputs), normal(outputs, inputs, seed=1), normal(outputs, seed=2))


@needs_native
@given(
    *(st.integers(0, 20), st.integers(0, 70), st.integers(0, 150)),
    *(st.integers(0, 5), st.booleans()),
)
def test_any_shape_and_rows_within_a_larger_matrix(
    count: int, inputs: int, outputs: int, beyond: int, biased: bool
) -> None:
    rows = normal(count, inputs + beyond)[:, :inputs]
    bias = normal(outputs, seed=2) if biased else None
    for impl in ("cpp", "reference"):
        check(rows, normal(outputs, inputs, seed=1), bias, impl)


@needs_native
@pytest.mark.parametrize("inputs", [65, 700])
def test_gelu_is_that_of_the_same_kernel_without_it(
    instruction_set: str,  # noqa: F811
    inputs: int,
) -> None:
    """Of the whole sum, which 700 inputs make in three parts."""
    rows, bias = normal(7, inputs) / 8, normal(50, seed=2)
    weight = normal(50, inputs, seed=1)
    panels = pack_weight(weight)
    plain = packed_linear(rows, panels, 50, bias, impl="cpp")
    found = packed_linear(rows, panels, 50, bias, gelu=True, impl="cpp")
    expected = functional.gelu(plain, approximate="tanh")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@needs_native
def test_a_result_depends_on_its_own_row_alone(
    instruction_set: str,  # noqa: F811
) -> None:
    """Bit for bit: a sequence's tokens do not depend on how many are generated beside it."""
    rows, panels = normal(33, 300), pack_weight(normal(100, 300, seed=1))
    bias = normal(100, seed=2)
    whole = packed_linear(rows, panels, 100, bias, impl="cpp")
    for few in ([7], [3, 7], [0, 7, 9, 12, 31], list(range(7, 27))):
        part = packed_linear(rows[few], panels, 100, bias, impl="cpp")
        assert torch.equal(part, whole[few])


@needs_native
def test_the_number_of_threads_changes_no_bit() -> None:
    rows, panels = normal(20, 300), pack_weight(normal(1001, 300, seed=1))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(packed_linear(rows, panels, 1001, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_nan_and_infinity_reach_the_outputs_they_belong_to(impl: str) -> None:
    weight = torch.ones(20, 9)
    weight[3, 8], weight[17, 0] = float("nan"), float("inf")
    found = packed_linear(torch.ones(2, 9), pack_weight(weight), 20, impl=impl)
    assert found[:, 3].isnan().all()
    assert found[:, 17].tolist() == [float("inf")] * 2
    assert found[:, torch.arange(20) % 14 != 3].tolist() == [[9.0] * 18] * 2


@needs_native
def test_what_the_kernel_does_not_take_is_said_and_left_to_torch() -> None:
    rows, panels = normal(2, 4).bfloat16(), pack_weight(normal(3, 4).bfloat16())
    with pytest.raises(KernelError, match=r"float32, not torch\.bfloat16"):
        packed_linear(rows, panels, 3, impl="cpp")
    assert packed_linear(rows, panels, 3).dtype == torch.bfloat16
    wanted = normal(1, 4).requires_grad_()
    with pytest.raises(KernelError, match="no gradient"):
        packed_linear(wanted, panels.float(), 3, impl="cpp")
    packed_linear(wanted, panels.float(), 3).sum().backward()
    assert wanted.grad is not None


@pytest.mark.parametrize(
    ("rows", "panels", "bias", "message"),
    [
        (torch.ones(4), torch.ones(1, 4, 16), None, r"rows must be floating \[N, I\], got \(4,\)"),
        (
            torch.ones(2, 4),
            torch.ones(3, 4),
            None,
            r"must be \(1, 4, 16\), as pack_weight\(weight\) makes them, got \(3, 4\)",
        ),
        (
            torch.ones(2, 4),
            torch.ones(2, 4, 16),
            None,
            r"3 outputs the panels must be \(1, 4, 16\)",
        ),
        (torch.ones(2, 4), torch.ones(1, 4, 16), torch.ones(4), r"bias must be \[3\], got \(4,\)"),
        (torch.ones(2, 4), torch.ones(1, 4, 16).double(), None, "panels must be torch.float32"),
        (torch.ones(2, 4), torch.ones(1, 16, 4).mT, None, "panels must be contiguous"),
    ],
)
def test_shapes_and_dtypes_that_do_not_fit_are_refused(
    rows: Tensor, panels: Tensor, bias: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        packed_linear(rows, panels, 3, bias)


@pytest.mark.parametrize("outputs", [-3, 3.0, "3", torch.ones(3)])
def test_a_number_of_outputs_that_is_none_is_refused(outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"outputs must be how many .*, an integer from 0, got"):
        packed_linear(torch.ones(2, 4), torch.ones(1, 4, 16), outputs)


def test_only_a_matrix_is_laid_out() -> None:
    with pytest.raises(ValueError, match=r"weight must be \[O, I\], got \(4,\)"):
        pack_weight(torch.ones(4))


@needs_native
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_does_not_matter(default: torch.dtype) -> None:
    """Room for bfloat16 numbers would be half of what is written."""
    rows, panels = normal(2, 8), pack_weight(normal(300, 8, seed=1))
    expected, before = packed_linear(rows, panels, 300, impl="cpp"), torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        found = packed_linear(rows, panels, 300, impl="cpp")
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@needs_native
def test_the_torch_operation_passes_opcheck() -> None:
    operation = torch.ops.fairlead_kernels.packed_linear.default
    for count in (0, 1, 7):
        panels = pack_weight(normal(20, 5))
        torch.library.opcheck(operation, (normal(count, 5), panels, 20, normal(20), True))
