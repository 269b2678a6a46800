"""Which library multiplies in a recorded step, and that it computes the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from cases import needs_native, normal
from torch.fx.experimental.proxy_tensor import make_fx

import fairlead_kernels
from fairlead.generation import rewrite
from fairlead.generation.products import lay_out, product, use_fast_products

ATEN = torch.ops.aten


def recorded(rows: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """A layer with GPT-2's GELU as it is and as it is made faster, and what it is given."""

    def layer(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(torch.addmm(bias, x, weight), approximate="tanh")

    given = [normal(5, 20), normal(20, seed=1), normal(rows, 5, seed=2)]
    given = [one.to(dtype) for one in given]
    plain, fast = make_fx(layer)(*given), make_fx(layer)(*given)
    use_fast_products(fast.graph, 2)
    fast.graph.eliminate_dead_code()
    fast.recompile()
    return plain, fast, given


@pytest.mark.parametrize("rows", [1, 4])
def test_a_layer_computes_the_same_with_its_weight_laid_out(rows: int) -> None:
    plain, fast, given = recorded(rows)
    torch.testing.assert_close(fast(*given), plain(*given), atol=1e-5, rtol=1e-5)


@needs_native
def test_float32_weights_lie_in_panels() -> None:
    _, fast, _ = recorded()
    (laid_out,) = (node for node in fast.graph.nodes if node.target is lay_out)
    assert laid_out.args[1] == "panels"
    (user,) = laid_out.users
    assert "packed_linear" in str(user.target)


@pytest.mark.parametrize("instructions", [True, False])
def test_bfloat16_weights_lie_as_onednn_likes_them_where_it_multiplies_them(
    instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: instructions)
    _, fast, _ = recorded(dtype=torch.bfloat16)
    laid_out = [node.args[1] for node in fast.graph.nodes if node.target is lay_out]
    assert laid_out == (["onednn"] if instructions else [])


def test_without_a_kernel_for_panels_the_library_multiplies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference takes a weight out of its panels each time."""
    rows = [
        dataclasses.replace(row, auto=row.impl == "reference")
        for row in fairlead_kernels.list_implementations()
    ]
    monkeypatch.setattr(rewrite, "list_implementations", lambda: rows)
    plain, fast, given = recorded()
    assert "'panels'" not in fast.code
    torch.testing.assert_close(fast(*given), plain(*given), atol=1e-5, rtol=1e-5)


def test_a_plugins_kernel_for_panels_is_called_as_the_public_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        dataclasses.replace(row, auto=row.op != "packed_linear")
        for row in fairlead_kernels.list_implementations()
    ]
    mine = fairlead_kernels.ImplementationRow("packed_linear", "mine", "me", "cpu", True, "", True)
    monkeypatch.setattr(rewrite, "list_implementations", lambda: [*rows, mine])
    plain, fast, given = recorded()
    assert fairlead_kernels.packed_linear in [node.target for node in fast.graph.nodes]
    torch.testing.assert_close(fast(*given), plain(*given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_takes_a_weight_laid_out_for_onednn(rows: int) -> None:
    given = torch.arange(4.0 * rows).view(rows, 4)
    weight = torch.arange(80.0).view(10, 8)[::2, ::2]
    found = product(given, lay_out(weight, "onednn"), None, gelu=False)
    torch.testing.assert_close(found, given @ weight.t())


def test_a_bias_that_is_spread_out_is_left_to_torch() -> None:
    graph = make_fx(lambda w, b, x: torch.addmm(b, x, w))(
        torch.ones(4, 5), torch.ones(1), torch.ones(1, 4)
    ).graph
    use_fast_products(graph, 2)
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [
        ATEN.addmm.default
    ]
