"""What is left out of a recorded step, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fairlead.generation.rewrite import leave_out_idle

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


def test_a_copy_is_left_out() -> None:
    assert left(lambda x: x.clone() + 1, X) == [ATEN.add.Tensor]


def test_a_copy_that_is_written_to_is_kept() -> None:
    def step(x: Tensor) -> Tensor:
        copy = x.clone()
        copy.add_(1)
        return copy + x

    assert ATEN.clone.default in left(step, X)


def test_views_of_views_become_one() -> None:
    found = left(lambda x: x.view(2, 12).unsqueeze(1).view(3, 8).sin(), X)
    assert found == [ATEN.view.default, ATEN.sin.default]


def test_a_view_to_the_shape_there_is_is_left_out() -> None:
    assert left(lambda x: x.view(4, 1, 6).view(-1, 6).sin(), X) == [ATEN.sin.default]


def test_views_of_what_does_not_lie_in_order_become_one_too() -> None:
    found = left(lambda x: x.view(6, 4).t().unsqueeze(1).view(4, 2, 3).sin(), X)
    assert found == [ATEN.view.default, ATEN.t.default, ATEN.view.default, ATEN.sin.default]
