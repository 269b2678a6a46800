"""A recorded step bound to memory: what is repeated, for how many rows, and what is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import needs_native, normal
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

from fairlead.generation.bound import Arena, BoundStep, Plan, _launched
from fairlead_kernels import Launch, gelu, pack_weight, sample


def bound(function: Callable[..., Tensor], *inputs: Tensor) -> BoundStep:
    graph = make_fx(function)(*(one.clone() for one in inputs)).graph
    return BoundStep(Plan(graph), inputs, Arena())


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "an operation that writes where it is told to": lambda x, w: x @ w,
    "one that cannot, with several results": lambda x, w: (
        torch.layer_norm(x, (6,), w[0]) + x.topk(6).values
    ),
    "views": lambda x, w: x.view(2, 2, 6).transpose(1, 2).unsqueeze(0)[0, 1] * 2,
    "parts": lambda x, w: torch.cat([one.exp() for one in x.split(2, dim=1)], dim=1),
    "a result in another order": lambda x, w: (x.t() + 1).sin().t() @ w,
    "a chain whose memory is used again": lambda x, w: ((x.sin() + 1).cos() * 2).exp() + x.tan(),
    "an input as it is": lambda x, w: x,
    "another type": lambda x, w: (x > 0).to(torch.int64) + x.argmax(1, keepdim=True),
    "writing into its own": lambda x, w: x.exp().add_(1).sin(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_bound_step_computes_anew_from_what_its_inputs_hold(name: str) -> None:
    function = FUNCTIONS[name]
    x, w = normal(4, 6), normal(6, 6, seed=1)
    step = bound(function, x, w)
    assert torch.equal(step.result, function(x, w))
    for seed in (2, 3):
        x.copy_(normal(4, 6, seed=seed))
        expected = function(x, w)
        assert step.run(4) is step.result
        assert torch.equal(step.result, expected)


def test_a_bound_step_writes_to_its_inputs_once_a_run() -> None:
    x = torch.zeros(3)
    step = bound(lambda x: x.add_(1)[:2] * 10, x)
    assert x.tolist() == [1, 1, 1]
    step.run(3)
    assert x.tolist() == [2, 2, 2]
    assert step.result.tolist() == [20, 20]


LIBRARY = torch.library.Library("fairlead_tests", "DEF")
LIBRARY.define("store(Tensor(a!) cache, Tensor x) -> ()")
LIBRARY.define("same(Tensor x) -> Tensor")
LIBRARY.define("counted(Tensor x) -> (Tensor, int)")
LIBRARY.impl("store", lambda cache, x: (cache.copy_(10 * x), None)[1], "CPU")
LIBRARY.impl("same", lambda x: x, "CPU")
LIBRARY.impl("counted", lambda x: (x + 1, len(x)), "CPU")
THEIRS = torch.ops.fairlead_tests


def test_an_operation_that_writes_and_returns_nothing_is_repeated() -> None:
    graph = fx.Graph()
    cache, x = (graph.placeholder(name) for name in ("cache", "x"))
    graph.call_function(THEIRS.store.default, (cache, x))
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (cache, 1)))
    held, given = torch.zeros(3), torch.ones(3)
    step = BoundStep(Plan(graph), (held, given), Arena())
    given.fill_(2)
    assert step.run(3).tolist() == [21, 21, 21]


@pytest.mark.parametrize(
    ("operation", "message"),
    [(THEIRS.same, "memory that it was given"), (THEIRS.counted, "more than tensors")],
)
def test_what_cannot_be_repeated_is_an_error(operation: Any, message: str) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(operation.default, (graph.placeholder("x"),)))
    with pytest.raises(RuntimeError, match=message):
        BoundStep(Plan(graph), (torch.ones(3),), Arena())


def test_autocast_adds_no_cast_to_a_run() -> None:
    """A product in float32 is none in bfloat16 for running where products are cast."""
    graph = fx.Graph()
    graph.output(graph.call_function(linear, tuple(map(graph.placeholder, "xw"))))
    x, w = normal(4, 60), normal(4, 60, seed=1)
    step = BoundStep(Plan(graph), (x, w), Arena())
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(linear(x, w).float(), step.result)
        found = step.run(4).clone()
    assert torch.equal(found, linear(x, w))


def test_what_follows_a_bound_step_is_computed_anew_as_well() -> None:
    x, y = normal(4, 6), normal(4, 6, seed=1)
    step = bound(lambda x: x.exp(), x)
    step.then(lambda found, other: [found.sum(1), (found * other).t()], y)
    total, both = step.result
    for seed in (2, 3):
        x.copy_(normal(4, 6, seed=seed))
        y.copy_(normal(4, 6, seed=seed + 2))
        step.run(4)
        assert torch.equal(total, x.exp().sum(1))
        assert torch.equal(both, (x.exp() * y).t())


@needs_native
def test_kernels_are_called_without_anything_of_torch() -> None:
    """The same numbers, and operations of torch are looked for: there are none in a run."""
    x, w, u = normal(3, 8), normal(40, 8, seed=1), torch.tensor([0.1, 0.5, 0.9]).double()
    panels, one = pack_weight(w), torch.ones(8)
    ops = torch.ops.fairlead_kernels

    def step(x: Tensor, panels: Tensor, one: Tensor) -> Tensor:
        _, normed = ops.add_layer_norm(x, x, one, one, 1e-5)
        logits: Tensor = ops.packed_linear(normed, panels, 40, None, True)
        return logits

    found = bound(step, x, panels, one)
    found.then(ops.sample.default, u, 0.7, 0, 1.0)
    x.copy_(normal(3, 8, seed=5))
    with torch.profiler.profile() as profile:
        tokens, logprobs, _ = found.run(3)
    assert [one.name for one in profile.events() if "::" in one.name] == []
    expected = sample(step(x, panels, one), u, 0.7)
    assert torch.equal(tokens, expected[0])
    assert torch.equal(logprobs, expected[1])


@needs_native
def test_kernels_compute_no_more_rows_than_are_asked_for() -> None:
    """Four are bound; of the first two the others' results are left as they were."""
    x, u = normal(4, 8), torch.tensor([0.1, 0.5, 0.9, 0.3]).double()
    panels, one = pack_weight(normal(40, 8, seed=1)), torch.ones(8)
    ops = torch.ops.fairlead_kernels

    def step(panels: Tensor, one: Tensor, x: Tensor) -> Tensor:
        _, normed = ops.add_layer_norm(x, x, one, one, 1e-5)
        logits: Tensor = ops.packed_linear(normed, panels, 40, None, False)
        return logits

    found = bound(step, panels, one, x)
    logits = found.result
    found.then(ops.sample.default, u, 0.7, 0, 1.0)
    before = logits.clone()
    x.copy_(normal(4, 8, seed=5))
    tokens, *_ = found.run(2)
    after = step(panels, one, x)
    assert torch.equal(logits[:2], after[:2])
    assert torch.equal(logits[2:], before[2:])
    assert torch.equal(tokens[:2], sample(after, u, 0.7)[0][:2])
    found.run(4)
    assert torch.equal(logits, after)


@needs_native
def test_attention_and_drawing_of_the_first_rows_leave_the_others_as_they_were() -> None:
    query, cache = normal(4, 2, 8), normal(4, 2, 6, 8, seed=1)
    lengths, u = torch.tensor([1, 2, 6, 3]), torch.full((4,), 0.5).double()
    attend = torch.ops.fairlead_kernels.decode_attention
    step = bound(lambda q, k, n: attend(q, k, k, n, 0.3), query, cache, lengths)
    attended, before = step.result, step.result.clone()
    query.copy_(normal(4, 2, 8, seed=2))
    step.run(2)
    after = attend(query, cache, cache, lengths, 0.3)
    assert torch.equal(attended[:2], after[:2])
    assert torch.equal(attended[2:], before[2:])
    drawing = bound(lambda x: x.exp(), x := normal(4, 50))
    drawing.then(torch.ops.fairlead_kernels.sample.default, u, 1.0, 0, 1.0)
    first = [one.clone() for one in drawing.result]
    x.copy_(normal(4, 50, seed=3))
    for one, old in zip(drawing.run(2), first, strict=True):
        assert torch.equal(one[2:], old[2:])
    assert not torch.equal(drawing.result[1][:2], first[1][:2])


@needs_native
def test_a_kernel_of_as_many_rows_that_are_not_the_steps_computes_them_all() -> None:
    """Two rows of a weight, in a step that happens to have two rows."""
    packed = torch.ops.fairlead_kernels.packed_linear

    def step(panels: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        total: Tensor = x[:, :5] + packed(weight, panels, 5, None, False).sum(0)
        return total

    panels, weight, x = pack_weight(normal(5, 8)), normal(2, 8, seed=1), normal(2, 8, seed=2)
    graph = make_fx(step, tracing_mode="symbolic")(panels, weight, normal(7, 8)).graph
    found = BoundStep(Plan(graph), (panels, weight, x), Arena())
    weight.copy_(normal(2, 8, seed=3))
    assert torch.equal(found.run(1)[:1], step(panels, weight, x)[:1])


@needs_native
def test_a_kernel_whose_rows_are_copied_first_has_them_copied_each_time() -> None:
    packed, panels, x = torch.ops.fairlead_kernels.packed_linear, pack_weight(normal(5, 8)), None
    x = normal(8, 3, seed=1)
    found = bound(lambda panels, x: packed(x.t(), panels, 5, None, False), panels, x)
    x.copy_(normal(8, 3, seed=2))
    assert torch.equal(found.run(3), packed(x.t(), panels, 5, None, False))


@needs_native
def test_memory_that_only_kernels_read_is_kept() -> None:
    """They are called with addresses, and nobody else has it."""
    ops = torch.ops.fairlead_kernels
    x, panels, u = normal(4, 8), pack_weight(normal(50, 8, seed=1)), torch.zeros(4).double()
    step = bound(lambda panels, x: ops.packed_linear(x, panels, 50, None, False), panels, x)
    logits = step.result
    step.then(ops.sample.default, u, 1.0, 0, 1.0)
    given = [weakref.ref(one) for one in (x, panels, u, logits)]
    del x, panels, u, logits
    gc.collect()
    assert None not in [one() for one in given]


@needs_native
def test_a_kernel_that_does_not_write_the_result_is_not_all_of_an_operation() -> None:
    x, other = normal(3), normal(3, seed=1)
    launch = Launch(lambda *_: None, (x,))
    place = x.untyped_storage().data_ptr()
    assert _launched([launch], [other], [other], {place}, 3) == []
    assert len(_launched([launch], [x], [x], set(), 3)) == 1


@needs_native
def test_a_kernel_that_has_other_rows_than_the_step_computes_them_all() -> None:
    """Two heads a row are four rows of a product; the sum of two makes one of each."""
    x, panels = normal(2, 16), pack_weight(normal(5, 8, seed=1))
    packed = torch.ops.fairlead_kernels.packed_linear

    def step(panels: Tensor, x: Tensor) -> Tensor:
        heads = packed(x.view(4, 8), panels, 5, None, False)
        total: Tensor = heads.view(2, 2, 5).sum(1)
        return total

    found = bound(step, panels, x)
    x.copy_(normal(2, 16, seed=2))
    assert torch.equal(found.run(1), step(panels, x))


@needs_native
def test_what_a_function_does_beside_a_kernel_is_done_each_time() -> None:
    """A plugin's kernel may call one of ours, and go on with what that has written."""

    def twice(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.fairlead_kernels.gelu(x)
        return result.mul_(2)

    x = normal(3, 8)
    graph = make_fx(lambda x: x.exp())(x).graph
    (called,) = (node for node in graph.nodes if node.op == "call_function")
    called.target = twice
    step = BoundStep(Plan(graph), (x,), Arena())
    step.then(lambda found: [twice(found)])
    x.copy_(normal(3, 8, seed=1))
    (found,) = step.run(3)
    torch.testing.assert_close(found, 2 * gelu(2 * gelu(x)))


def test_memory_is_used_again_and_shared() -> None:
    """Of a chain of twenty results two are needed at a time."""

    def chain(x: Tensor) -> Tensor:
        for _ in range(20):
            x = x.sin()
        return x

    arena = Arena()
    x = normal(100)
    plan = Plan(make_fx(chain)(x).graph)
    BoundStep(plan, (x,), arena)
    assert len(arena._free) == 2
    step = BoundStep(plan, (x[:50],), arena)
    assert len(arena._free) == 2
    assert torch.equal(step.run(50), chain(x[:50]))
