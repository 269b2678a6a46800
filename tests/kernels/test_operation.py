"""A torch operation called straight, and through torch wherever somebody is to see the call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import needs_native, normal
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fairlead_kernels as kernels
from fairlead_kernels import _torch_op
from fairlead_kernels._torch_op import TorchOp

LABELS = torch.tensor([1, 4, 0])
MASK = torch.ones(3, 5, dtype=torch.bool)
OFFSETS = torch.tensor([0, 2, 3])
# Functions of one leaf, each over an operation that has a gradient.
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: kernels.gelu(x, impl="cpp"),
    "ragged_attention": lambda x: kernels.ragged_attention(
        *(one.reshape(3, 1, 5) for one in (x, 2 * x, x * x)), OFFSETS, 2, impl="cpp"
    ),
    "token_logprobs": lambda x: sum(kernels.token_logprobs(x, LABELS, 0.7, impl="cpp")),  # type: ignore[arg-type, return-value]
    "linear_logprobs": lambda x: sum(  # type: ignore[return-value]
        kernels.linear_logprobs(x, normal(6, 5, seed=1), LABELS, 0.7, impl="cpp")  # type: ignore[arg-type]
    ),
    "ppo_policy_loss": lambda x: kernels.ppo_policy_loss(
        x, normal(3, 5, seed=1), normal(3, 5, seed=2), MASK, impl="cpp"
    )[0],
    "ppo_value_loss": lambda x: kernels.ppo_value_loss(
        x, normal(3, 5, seed=1), normal(3, 5, seed=2), MASK, impl="cpp"
    )[0],
}
NUMBERS = itertools.count()


class Functions(TorchFunctionMode):
    """Notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    """Notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def functions() -> Iterator[list[str]]:
    with Functions() as mode:
        yield mode.seen


@contextmanager
def dispatches() -> Iterator[list[str]]:
    with Dispatches() as mode:
        yield mode.seen


@contextmanager
def profiled() -> Iterator[list[str]]:
    seen: list[str] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yield seen
    seen += [event.key for event in profile.key_averages()]


def scaled(launch: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """A new operation, `launch(x, factor)`."""
    operation = TorchOp(
        "(Tensor x, float factor) -> Tensor",
        lambda x, factor: torch.empty_like(x),
        lambda x, factor: None,
        **more,
    )
    return operation.define(f"scaled_{next(NUMBERS)}", launch)


@needs_native
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_those_of_the_call_through_torch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    through: list[bool] = []
    real = _torch_op._unobserved
    found = []
    for straight in (True, False):
        monkeypatch.setattr(_torch_op, "_unobserved", lambda straight=straight: straight and real())
        with dispatches() if not straight else torch.enable_grad() as seen:
            leaf = normal(3, 5).requires_grad_()
            values = CALLS[name](leaf)
            values.sum().backward()
            with torch.no_grad():
                found.append((values.detach(), leaf.grad, CALLS[name](leaf)))
        through.append(bool(seen))
    assert through == [False, True]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)  # type: ignore[arg-type]
    assert bool(found[0][1].any())  # type: ignore[union-attr]


@needs_native
@pytest.mark.parametrize("observed", [functions, dispatches, profiled])
def test_whoever_watches_sees_the_operation(observed: Callable[..., Any]) -> None:
    leaf = normal(3, 5).requires_grad_()
    with observed() as seen:
        kernels.gelu(leaf, impl="cpp").sum().backward()
    assert any("fairlead_kernels" in one and "gelu" in one for one in seen)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_transformation_of_functions_goes_through_torch() -> None:
    """What it hands over looks like a tensor, and has no memory of its own."""
    shapes = []
    run = scaled(lambda x, factor: shapes.append(tuple(x.shape)) or x * factor)  # type: ignore[func-returns-value]
    x = normal(3, 5)
    assert torch.equal(torch.vmap(lambda row: run(row, 2.0))(x), 2 * x)
    assert shapes == [(5,)] * 3


def test_a_tensor_of_another_kind_goes_through_torch() -> None:
    launched = []
    run = scaled(lambda x, factor: launched.append(type(x)) or x * factor)  # type: ignore[func-returns-value]
    fake = torch._subclasses.FakeTensorMode()
    with fake:
        x = torch.empty(2)
    assert run(x, 2.0).shape == (2,)
    assert run(torch.empty(3, device="meta"), 2.0).is_meta
    assert not launched
    assert torch.equal(
        run(torch.nn.Parameter(torch.ones(2), requires_grad=False), 2.0), 2 * torch.ones(2)
    )
    assert launched == [torch.nn.Parameter]


def test_a_kernel_is_given_floats_where_it_takes_floats() -> None:
    """To Triton 1 is an integer, and a constant."""
    given = []
    run = scaled(lambda x, factor: given.append(factor) or x * factor)  # type: ignore[func-returns-value]
    for factor in (2.0, 2, True, torch.tensor(2.0)):
        run(torch.ones(2), factor)
    assert [type(one) for one in given] == [float] * 4


def test_a_gradient_is_asked_for_only_where_one_is_wanted() -> None:
    kept = []

    def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
        kept.append(inputs[1])
        ctx.factor = inputs[1]

    run = scaled(
        lambda x, factor: x * factor,
        setup_context=keep,
        backward=lambda ctx, grad: (grad * ctx.factor, None),
    )
    leaf = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not run(leaf, 2.0).requires_grad
    assert not run(leaf.detach(), 3.0).requires_grad
    run(leaf, 4.0).sum().backward()
    assert kept == [4.0]
    assert torch.equal(leaf.grad, torch.tensor([4.0, 4.0]))  # type: ignore[arg-type]
