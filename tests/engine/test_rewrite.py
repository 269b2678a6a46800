"""What is left out of a recorded step, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fairlead.generation.rewrite import (
    call_directly,
    leave_out_idle,
    product,
    use_fast_products,
)

ATEN = torch.ops.aten


def left(function: Callable[..., Tensor], *inputs: Tensor) -> list[Any]:
    """The operations that are left, which are checked to give the same."""
    recorded = make_fx(function)(*(one.clone() for one in inputs))
    expected = recorded(*(one.clone() for one in inputs))
    leave_out_idle(recorded.graph)
    recorded.recompile()
    assert torch.equal(recorded(*(one.clone() for one in inputs)), expected)
    return [node.target for node in recorded.graph.nodes if node.op == "call_function"]


X = torch.arange(24.0).view(4, 6)


def test_a_slice_of_everything_is_left_out_and_one_of_a_part_is_not() -> None:
    assert left(lambda x: x[:].sin(), X) == [ATEN.sin.default]
    assert left(lambda x: x[1:].sin(), X) == [ATEN.slice.Tensor, ATEN.sin.default]
    assert left(lambda x: x[::2].sin(), X) == [ATEN.slice.Tensor, ATEN.sin.default]


def test_a_copy_of_what_the_step_has_made_is_left_out() -> None:
    assert left(lambda x: (x + 1).clone().sin(), X) == [ATEN.add.Tensor, ATEN.sin.default]


@pytest.mark.parametrize("seen", [lambda x: x, lambda x: x.view(24), lambda x: x.split(2)[1]])
def test_a_copy_of_the_cache_is_kept(seen: Callable[[Tensor], Tensor]) -> None:
    """It is written to between the copy and its use, whatever it is seen by."""

    def step(keys: Tensor) -> Tensor:
        old = seen(keys).clone()
        keys.add_(1)
        return old + seen(keys)

    assert ATEN.clone.default in left(step, X)


def test_a_copy_of_a_part_of_what_the_step_has_made_is_left_out() -> None:
    found = left(lambda x: (x + 1).split(2)[1].clone().sin(), X)
    assert ATEN.clone.default not in found


def test_a_copy_that_brings_into_order_is_kept() -> None:
    found = left(lambda x: (x + 1)[:, None].expand(4, 3, 6).clone().view(72), X)
    assert ATEN.clone.default in found


@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_takes_weights_however_they_lie_and_several_rows(rows: int) -> None:
    given = torch.arange(4.0 * rows).view(rows, 4)
    weight = torch.arange(80.0).view(10, 8)[::2, ::2]
    torch.testing.assert_close(product(given, weight, None, gelu=False), given @ weight.t())


def test_a_bias_that_is_spread_out_is_left_to_torch() -> None:
    graph = make_fx(lambda w, b, x: torch.addmm(b, x, w))(
        torch.ones(4, 5), torch.ones(1), torch.ones(1, 4)
    ).graph
    use_fast_products(graph, 2)
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [
        ATEN.addmm.default
    ]


def test_a_copy_that_is_written_to_is_kept() -> None:
    def step(x: Tensor) -> Tensor:
        made = x * 2
        copy = made.clone()
        copy.add_(1)
        return copy + made

    assert ATEN.clone.default in left(step, X)


def test_views_of_views_become_one() -> None:
    found = left(lambda x: x.view(2, 12).unsqueeze(1).view(3, 8).sin(), X)
    assert found == [ATEN.view.default, ATEN.sin.default]


def test_a_view_to_the_shape_there_is_is_left_out() -> None:
    assert left(lambda x: x.view(4, 1, 6).view(-1, 6).sin(), X) == [ATEN.sin.default]


def test_views_of_what_does_not_lie_in_order_become_one_too() -> None:
    found = left(lambda x: x.view(6, 4).t().unsqueeze(1).view(4, 2, 3).sin(), X)
    assert found == [ATEN.view.default, ATEN.t.default, ATEN.view.default, ATEN.sin.default]


def test_methods_take_the_place_of_overloads_and_give_the_same() -> None:
    aten = torch.ops.aten

    def step(x: Tensor) -> Tensor:
        rows = aten.sym_size.int(x, 0)
        turned = aten.transpose.int(aten.view.default(x, [rows, 2, 3]), 1, 2)
        first = aten.unsqueeze.default(aten.select.int(turned, 1, 0), 1)
        more = aten.add.Tensor(aten.mul.Tensor(turned, 3.0), first, alpha=2)
        return aten.neg.default(more)

    traced = fx.symbolic_trace(step)
    call_directly(traced.graph)
    traced.recompile()
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_method", "output"}
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(traced(x), step(x))
