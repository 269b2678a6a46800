"""GPT-2's activation is computed by the kernel library, and stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

import fairlead.models
from fairlead.models import Gelu, use_fused_gelu


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "nn"])
def test_the_approximation_is_an_operation_of_the_kernel_library(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = nn.GELU(approximate="tanh") if name == "nn" else ACT2FN[name]
    model = nn.Sequential(nn.Linear(3, 3), before)
    names = list(model.state_dict())
    use_fused_gelu(model)
    assert type(model[1]) is Gelu
    assert list(model.state_dict()) == names
    calls: list[Any] = []
    kernel = fairlead.models.gelu
    monkeypatch.setattr(fairlead.models, "gelu", lambda x: calls.append(x) or kernel(x))
    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(model[1](x), before(x), atol=1e-6, rtol=1e-5)
    assert len(calls) == 1


@pytest.mark.parametrize("other", [nn.GELU(), ACT2FN["gelu"], ACT2FN["gelu_fast"], nn.SiLU()])
def test_other_activations_are_left_alone(other: nn.Module) -> None:
    model = nn.Sequential(other)
    use_fused_gelu(model)
    assert model[0] is other
