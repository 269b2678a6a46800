"""Linear layers multiplied by oneDNN compute what torch's own compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fairlead import linear
from fairlead.linear import (
    OneDnnConv1D,
    OneDnnLinear,
    torch_is_fast,
    use_faster_products,
    use_onednn,
)

LAYERS = {
    "linear": lambda: nn.Linear(48, 80),
    "narrowing": lambda: nn.Linear(80, 48),
    "no bias": lambda: nn.Linear(48, 80, bias=False),
    "conv1d": lambda: Conv1D(80, 48),
    "narrowing conv1d": lambda: Conv1D(48, 80),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain: nn.Module = LAYERS[name]()  # type: ignore[no-untyped-call]
    for one in plain.parameters():
        nn.init.normal_(one)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    assert type(fast) in (OneDnnLinear, OneDnnConv1D)
    return plain, fast


def inputs(layer: Any, *shape: int) -> torch.Tensor:
    weight = layer.weight
    width = weight.shape[0] if isinstance(layer, Conv1D) else weight.shape[1]
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(32,), (2, 32), (4, 3, 8)])
def test_values_and_gradients_are_those_of_the_plain_layer(
    name: str, shape: tuple[int, ...]
) -> None:
    plain, fast = pair(name)
    found = []
    for layer in (plain, fast):
        rows = inputs(layer, *shape).requires_grad_()
        out = layer(rows)
        (out * out).sum().backward()
        gradients = {key: one.grad for key, one in layer.named_parameters()}
        found.append((out.detach(), rows.grad, gradients))
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_oneDNN_is_what_multiplies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair(name)
    calls = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(*given: Any) -> torch.Tensor:
        calls.append(given)
        product: torch.Tensor = real(*given)
        return product

    monkeypatch.setattr("fairlead.linear._POINTWISE", counted)
    fast(inputs(fast, 32))
    assert len(calls) == 1
    with torch.no_grad():
        fast(inputs(fast, 32))
    assert len(calls) == 2
    fast(inputs(fast, 33))  # not a round number of rows
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(inputs(fast, 32)).dtype == torch.bfloat16
    assert len(calls) == 2


def test_frozen_weights_get_no_gradient() -> None:
    _, fast = pair("linear")
    fast.requires_grad_(False)
    rows = inputs(fast, 32).requires_grad_()
    fast(rows).sum().backward()
    assert rows.grad is not None
    assert all(one.grad is None for one in fast.parameters())


def test_rows_that_lie_otherwise_and_no_rows_are_taken() -> None:
    plain, fast = pair("linear")
    turned = torch.randn(48, 32, generator=torch.Generator().manual_seed(2)).t()
    torch.testing.assert_close(fast(turned), plain(turned), atol=1e-4, rtol=1e-5)
    assert fast(torch.zeros(0, 48)).shape == (0, 80)


def test_names_and_tied_weights_stay(tmp_path: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.table.weight

    model = Tied()
    names = list(model.state_dict())
    use_onednn(model)
    assert list(model.state_dict()) == names
    assert model.head.weight is model.table.weight


def test_a_subclass_of_a_linear_layer_is_left_alone() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(4, 4))
    use_onednn(model)
    assert type(model[0]) is Own


@pytest.mark.parametrize("fast", [True, False])
def test_products_are_left_to_torch_where_it_is_the_faster_one(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "torch_is_fast", lambda: fast)
    model = nn.Sequential(nn.Linear(4, 4))
    use_faster_products(model)
    assert type(model[0]) is (nn.Linear if fast else OneDnnLinear)


@pytest.mark.parametrize(
    ("maker", "instructions", "mkl", "fast"),
    [
        ("GenuineIntel", "AVX512", True, True),
        ("AuthenticAMD", "AVX512", True, False),
        ("AuthenticAMD", "AVX2", True, True),
        ("GenuineIntel", "AVX2", True, True),
        ("GenuineIntel", "AVX512", False, False),
        ("AuthenticAMD", "AVX2", False, False),
    ],
)
def test_torch_is_fast_with_mkl_where_that_takes_all_of_the_processor(
    maker: str, instructions: str, mkl: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MKL leaves AVX-512 unused on processors of other makers."""
    facts = f"processor\t: 0\nvendor_id\t: {maker}\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: facts)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    torch_is_fast.cache_clear()
    try:
        assert torch_is_fast() is fast
    finally:
        torch_is_fast.cache_clear()
