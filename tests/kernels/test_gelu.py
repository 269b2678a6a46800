"""gelu: GPT-2's approximation, forward and backward."""

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
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_within_error_rule
from torch import Tensor

from fairlead_kernels import gelu

INF = math.inf
HALVES = [torch.bfloat16, torch.float16]


def reference(x: Tensor) -> Tensor:
    return gelu(x, impl="reference")


def gradient(x: Tensor, upstream: Tensor, impl: str) -> Tensor:
    leaf = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(gelu(leaf, impl=impl), leaf, upstream)
    return result


def check(x: Tensor, upstream: Tensor) -> None:
    # 0.5 x and 0.5 x tanh(...) cancel below 0, and so do the parts of the gradient.
    sizes = x.double().abs()
    assert_within_error_rule(gelu(x, impl="cpp"), reference(x), reference(x.double()), sizes)
    found = gradient(x, upstream, "cpp")
    exact = gradient(x.double(), upstream.double(), "reference")
    terms = upstream.double().abs()
    assert_within_error_rule(found, gradient(x, upstream, "reference"), exact, terms)


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_values_and_gradients_by_hand(impl: str) -> None:
    """At 1: sqrt(2 / pi) 1.044715 = 0.833557, tanh 0.682384, and 0.5 (1 + 0.682384) = 0.841192.

    The gradient there is 0.841192 + 0.5 (1 - 0.682384^2) sqrt(2 / pi) (1 + 3 * 0.044715), that is
    0.841192 + 0.5 * 0.534352 * 0.904916 = 1.082964. At -1 the value is 0.841192 - 1, the gradient
    1 - 1.082964; at 0 they are 0 and 0.5.
    """
    x = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(gelu(x, impl=impl), torch.tensor([0.841192, 0.0, -0.158808]))
    found = gradient(x, torch.tensor([1.0, 2.0, 1.0]), impl)
    torch.testing.assert_close(found, torch.tensor([1.082964, 1.0, -0.082964]), atol=2e-6, rtol=0)


@needs_native
@pytest.mark.parametrize("count", [0, 1, 3, 127, 257, 70_001])
def test_odd_shapes_are_within_the_error_rule(
    instruction_set: str,  # noqa: F811
    count: int,
) -> None:
    check(3 * normal(count), normal(count, seed=1))


@needs_native
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_rounded_once(instruction_set: str, dtype: torch.dtype) -> None:  # noqa: F811
    x, upstream = (normal(3, 129, seed=seed).to(dtype) for seed in (0, 1))
    # One number off the nearest where float32 falls on the other side of a boundary.
    near = {"rtol": torch.finfo(dtype).eps, "atol": 1e-7}
    exact = reference(x.double()).to(dtype)
    torch.testing.assert_close(gelu(x, impl="cpp"), exact, **near)
    of_x = gradient(x.double(), upstream.double(), "reference").to(dtype)
    torch.testing.assert_close(gradient(x, upstream, "cpp"), of_x, **near)


@needs_native
def test_what_is_beyond_the_usual(instruction_set: str) -> None:  # noqa: F811
    """Far out it is x or 0, and the gradient 1 or 0; a denormal's half is its half."""
    x = torch.tensor([INF, 1e30, 50.0, -50.0, -1e30, 1e-40])
    assert gelu(x, impl="cpp").tolist() == [INF, *x[1:3].tolist(), 0.0, 0.0, float(x[5] / 2)]
    far = gradient(torch.tensor([INF, 1e30, 50.0, -50.0, -1e30, -INF]), torch.ones(6), "cpp")
    assert far.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    lost = torch.tensor([-INF, math.nan])
    assert bool(gelu(lost, impl="cpp").isnan().all())
    assert bool(gradient(lost[1:], torch.ones(1), "cpp").isnan().all())


@needs_native
@given(st.lists(st.floats(-40, 40, width=32), max_size=40), st.integers(0, 5))
def test_any_numbers_are_within_the_error_rule(numbers: list[float], seed: int) -> None:
    check(torch.tensor(numbers), normal(len(numbers), seed=seed))


@needs_native
def test_memory_in_another_order_is_read_as_it_is() -> None:
    x, upstream = normal(6, 40).t()[::2], normal(20, 6, seed=1)
    assert torch.equal(gelu(x, impl="cpp"), gelu(x.contiguous(), impl="cpp"))
    spread = torch.ones(1).expand(20, 6)
    for one in (upstream, upstream.t().contiguous().t(), spread):
        assert torch.equal(
            gradient(x, one, "cpp"), gradient(x.contiguous(), one.contiguous(), "cpp")
        )


@needs_native
def test_the_number_of_threads_changes_no_bit() -> None:
    x, before, found = normal(300_001), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((gelu(x, impl="cpp"), gradient(x, x, "cpp")))
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        assert all(map(torch.equal, one, found[0]))


@needs_native
def test_a_second_derivative_is_an_error() -> None:
    x = normal(4).requires_grad_()
    (first,) = torch.autograd.grad(gelu(x, impl="cpp").sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gelu has no second derivative"):
        first.sum().backward()


@needs_native
def test_the_torch_operations_pass_opcheck() -> None:
    ops = torch.ops.fairlead_kernels
    torch.library.opcheck(ops.gelu.default, (normal(3, 5).requires_grad_(),))
    torch.library.opcheck(ops.gelu_backward.default, (normal(3, 5), normal(3, 5, seed=1)))


@needs_native
def test_memory_that_does_not_fit_is_refused_before_the_kernel() -> None:
    backward = torch.ops.fairlead_kernels.gelu_backward
    with pytest.raises(ValueError, match="differ"):
        backward(normal(4), normal(5))
    with pytest.raises(ValueError, match="contiguous"):
        backward(normal(4, 4).t(), normal(4, 4))


def test_whole_numbers_are_refused_and_float64_is_left_to_the_reference() -> None:
    with pytest.raises(ValueError, match="x must be floating"):
        gelu(torch.ones(2, dtype=torch.int64))
    assert gelu(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
