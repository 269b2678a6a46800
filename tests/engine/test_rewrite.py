"""What is left out of a recorded step, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import needs_native, normal
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fairlead.generation import rewrite
from fairlead.generation.rewrite import (
    add_within_norm,
    leave_out_idle,
    store_within_attention,
)
from fairlead_kernels import ImplementationRow, add_layer_norm, decode_attention

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


def step(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    """A layer's attention as transformers and the slot cache have it."""
    rows = torch.arange(len(positions))
    keys[rows, :, positions] = key
    values[rows, :, positions] = 2 * key
    return (decode_attention(query, keys, values, positions + 1),)


def read_before(*args: Tensor) -> tuple[Tensor, ...]:
    return (args[2].sum(), *step(*args))


def read_after(*args: Tensor) -> tuple[Tensor, ...]:
    return (*step(*args), args[2].sum())


def all_in_one_row(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    keys[torch.arange(1), :, positions] = key
    values[torch.arange(1), :, positions] = key
    return (decode_attention(query, keys, values, positions + 1),)


def another_position(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    rows = torch.arange(len(positions))
    keys[rows, :, positions] = key
    values[rows, :, positions] = key
    return (decode_attention(query, keys, values, positions + 2),)


def changed_after_it_was_stored(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    rows, new = torch.arange(len(positions)), key * 2
    keys[rows, :, positions] = new
    values[rows, :, positions] = new
    new.add_(1)
    return (decode_attention(query, keys, values, positions + 1), new)


def twice_the_length(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    rows = torch.arange(len(positions))
    keys[rows, :, positions] = key
    values[rows, :, positions] = key
    return (decode_attention(query, keys, values, torch.add(positions, 1, alpha=2)),)


def one_position_for_all(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    keys[:, :, positions[:1]] = key[:, :, None]
    values[:, :, positions[:1]] = key[:, :, None]
    return (decode_attention(query, keys, values, positions + 1),)


def one_cache_for_both(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    keys[torch.arange(len(positions)), :, positions] = key
    return (decode_attention(query, keys, keys, positions + 1),)


def in_no_order(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    return step(query, key.mT.contiguous().mT, keys, values, positions)


def one_key_for_all_rows(
    query: Tensor, key: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    return step(query, key[0], keys, values, positions)


@needs_native
@pytest.mark.parametrize(
    ("function", "fused"),
    [
        *((step, True), (read_before, False), (read_after, False)),
        *((all_in_one_row, False), (another_position, False), (twice_the_length, False)),
        *((changed_after_it_was_stored, False), (one_position_for_all, False)),
        *((one_cache_for_both, False), (in_no_order, False), (one_key_for_all_rows, False)),
    ],
)
def test_attention_stores_what_is_new_where_nothing_else_sees_the_cache(
    function: Callable[..., tuple[Tensor, ...]], fused: bool
) -> None:
    given = [
        *(normal(3, 4, 8), normal(3, 2, 8, seed=1)),
        *(normal(3, 2, 6, 8, seed=2), normal(3, 2, 6, 8, seed=3), torch.tensor([0, 3, 1])),
    ]
    expected_in, found_in = ([one.clone() for one in given] for _ in range(2))
    recorded = make_fx(function)(*(one.clone() for one in given))
    expected = recorded(*expected_in)
    store_within_attention(recorded.graph)
    recorded.recompile()
    found = recorded(*found_in)
    for ours, right in zip((*found, *found_in), (*expected, *expected_in), strict=True):
        assert torch.equal(ours, right)
    assert ("append_attention" in recorded.code) == fused


def norm(total: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.layer_norm(total, (6,), weight, bias)


def residual(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Two layers' outputs, each added and normalised."""
    first = x + y
    second = first + norm(first, weight, bias)
    return second, norm(second, weight, bias)


def rows_of_the_sum(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """As OPT has it: normalised are the rows of a sum with a dimension more."""
    total = (x.view(4, 1, 6) + y.view(4, 1, 6)).view(4, 6)
    return total + norm(total, weight, bias), total * 2


def parts_of_rows(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm((x.view(2, 12) + y.view(2, 12)).view(4, 6), weight, bias),)


def nothing_added(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm(x * y, weight, bias),)


def a_number_added(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm(x + 1, weight, bias),)


def more_of_it_added(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm(torch.add(x, y, alpha=2), weight, bias),)


def one_row_added_to_all(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm(x + y[0], weight, bias),)


def without_weights(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (torch.layer_norm(x + y, (6,)),)


def weights_made_in_the_step(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    return (norm(x + y, weight * y[0], bias),)


def of_two_dimensions(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (torch.layer_norm(x + y, (4, 6)),)


def the_mean_is_wanted(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.native_layer_norm(x + y, (6,), weight, bias, 1e-5)[:2]


def the_sum_is_written_to(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    total = x + y
    total.mul_(2)
    return (norm(total, weight, bias),)


def in_float64(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (norm(x.double() + y.double(), weight.double(), bias.double()),)


def weights_of_another_type(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    return (norm((x + y).bfloat16() + y.bfloat16(), weight, bias).float(),)


def fused_norms(function: Callable[..., tuple[Tensor, ...]]) -> list[Any]:
    """The operations of it that add and normalise; its results are checked to be the same."""
    inputs = (normal(6), normal(6, seed=1), normal(4, 6, seed=2), normal(4, 6, seed=3))
    recorded = make_fx(function, tracing_mode="fake")(*inputs)
    expected = recorded(*inputs)
    recorded.graph.eliminate_dead_code()
    add_within_norm(recorded.graph)
    recorded.graph.lint()
    recorded.recompile()
    for one, other in zip(recorded(*inputs), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    targets = (node.target for node in recorded.graph.nodes)
    return [one for one in targets if "add_layer_norm" in getattr(one, "__name__", str(one))]


@needs_native
@pytest.mark.parametrize(
    ("function", "fused"),
    [
        *(
            (residual, 2),
            (rows_of_the_sum, 1),
            (parts_of_rows, 0),
            (nothing_added, 0),
            (a_number_added, 0),
            (more_of_it_added, 0),
        ),
        *((one_row_added_to_all, 0), (without_weights, 0), (weights_made_in_the_step, 0)),
        *((of_two_dimensions, 0), (the_mean_is_wanted, 0), (the_sum_is_written_to, 0)),
        *((in_float64, 0), (weights_of_another_type, 0)),
    ],
)
def test_a_sum_and_its_normalisation_are_one_kernel_where_it_does_both(
    function: Callable[..., tuple[Tensor, ...]], fused: int
) -> None:
    found = fused_norms(function)
    assert found == [torch.ops.fairlead_kernels.add_layer_norm.default] * fused


@needs_native
def test_a_plugins_kernel_adds_and_normalises_and_the_reference_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for taken, expected in (("mine", [add_layer_norm] * 2), ("reference", [])):
        row = ImplementationRow("add_layer_norm", taken, "me", "cpu", True, "", True)
        monkeypatch.setattr(rewrite, "list_implementations", lambda row=row: [row])
        assert fused_norms(residual) == expected
        for other in (one_row_added_to_all, of_two_dimensions, weights_of_another_type):
            assert fused_norms(other) == []
