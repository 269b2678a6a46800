"""A torch operation called straight, and through torch wherever somebody is to see the call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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
    asked: list[bool] = []
    real = _torch_op._unobserved
    found, made = [], []
    for straight in (True, False):

        def unobserved(straight: bool = straight) -> bool:
            asked.append(straight and real())
            return asked[-1]

        monkeypatch.setattr(_torch_op, "_unobserved", unobserved)
        leaf = normal(3, 5).requires_grad_()
        values = CALLS[name](leaf)
        made.append(_functions(values))
        values.sum().backward()
        with torch.no_grad():
            found.append((values.detach(), leaf.grad, CALLS[name](leaf)))
    assert set(asked) == {True, False}
    # Torch calls the node of an operation's gradient Generated.
    assert [any(one.startswith("Generated") for one in names) for names in made] == [False, True]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)  # type: ignore[arg-type]
    assert bool(found[0][1].any())  # type: ignore[union-attr]


def _functions(result: Tensor) -> set[str]:
    """The names of what a gradient goes through."""
    found, left = set(), [result.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            found.add(node.name())
            left += [one for one, _ in node.next_functions]
    return found


@needs_native
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_in_a_batch_go_through_torch(name: str) -> None:
    """An older vmap: what it hands over is a plain tensor to look at, without memory."""
    leaf = normal(3, 5).requires_grad_()
    values = CALLS[name](leaf)
    batch = torch.stack([torch.full_like(values, factor) for factor in (1.0, 2.0)])
    (once,) = torch.autograd.grad(values, leaf, batch[0], retain_graph=True)
    (both,) = torch.autograd.grad(values, leaf, batch, is_grads_batched=True)
    torch.testing.assert_close(both, torch.stack([once, 2 * once]), atol=1e-5, rtol=1e-5)


@needs_native
@pytest.mark.parametrize("name", ["gelu", "token_logprobs", "linear_logprobs", "ppo_policy_loss"])
def test_a_gradient_is_compiled_where_the_forward_pass_was_not(name: str) -> None:
    leaf = normal(3, 5).requires_grad_()
    (expected,) = torch.autograd.grad(CALLS[name](leaf).sum(), leaf)
    loss = CALLS[name](leaf).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    assert torch.equal(leaf.grad, expected)  # type: ignore[arg-type]


@needs_native
def test_what_is_stored_with_the_other_sign_is_not_read_as_it_lies() -> None:
    """The imaginary part of a conjugate is a view of the other numbers."""
    x = torch.randn(1, 1, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))
    turned = x.conj().imag
    assert turned.is_neg()
    assert turned.is_contiguous()
    assert torch.equal(kernels.gelu(turned, impl="cpp"), kernels.gelu(-x.imag, impl="cpp"))


@pytest.mark.parametrize(("of_its_own", "given"), [(True, False), (False, True)])
def test_a_gradient_without_its_kernel_or_a_kernel_without_gradient_is_an_error(
    of_its_own: bool, given: bool
) -> None:
    inner = TorchOp("(Tensor g) -> Tensor", torch.empty_like, lambda g: None)
    operation = TorchOp(
        "(Tensor x) -> Tensor",
        torch.empty_like,
        lambda x: None,
        backward=lambda run, ctx, grad: run(grad),
        gradient=inner if of_its_own else None,
    )
    name = f"halved_{next(NUMBERS)}"
    with pytest.raises(TypeError, match=f"{name}: the kernel of its gradient"):
        operation.define(name, torch.clone, torch.clone if given else None)
    assert not hasattr(torch.ops.fairlead_kernels, name)  # nothing was added


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


def test_whole_numbers_and_truth_values_are_given_as_such_or_refused() -> None:
    given: list[Any] = []
    operation = TorchOp(
        "(Tensor x, int count, bool wanted) -> Tensor",
        lambda x, *_: torch.empty_like(x),
        lambda *_: None,
    )
    run = operation.define(
        f"counted_{next(NUMBERS)}", lambda x, *more: given.extend(more) or x.clone()
    )
    run(torch.ones(2), 3, True)
    run(torch.ones(2), np.int64(3), 1)
    assert [type(one) for one in given] == [int, bool] * 2
    with pytest.raises(RuntimeError, match="count"):
        run(torch.ones(2), 3.0, True)


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
