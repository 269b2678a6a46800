"""xformers' attention, through a stand-in that computes what xformers documents."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import FAMILIES, save_causal
from torch import Tensor

from fairlead import strategy
from fairlead.attention import XFORMERS, use_xformers, xformers_attention
from fairlead.errors import ConfigError
from fairlead.models import hidden_states, load_causal
from fairlead.scalar import scalar_from_causal
from fairlead.strategy import SingleDevice

TOKENS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16]])


class LowerTriangularMask:
    """xformers' name for a causal mask."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, attn_bias: Any, p: float, scale: float | None
) -> Tensor:
    """``[B, S, H, D]``, no broadcasting over heads; a bias's rows start at multiples of 8."""
    assert query.shape == key.shape == value.shape
    assert query.dtype == key.dtype == value.dtype
    mask = None
    if isinstance(attn_bias, Tensor):
        assert attn_bias.shape == (*query.shape[:1], query.shape[2], *(query.shape[1],) * 2)
        assert attn_bias.stride(-2) % 8 == 0
        assert attn_bias.dtype == query.dtype
        mask = attn_bias
    causal = isinstance(attn_bias, LowerTriangularMask)
    heads = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(
        *heads, attn_mask=mask, is_causal=causal, dropout_p=p, scale=scale
    )
    return out.transpose(1, 2)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = attend  # type: ignore[attr-defined]
    ops.LowerTriangularMask = LowerTriangularMask  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


def test_a_reward_or_value_model_attends_by_it_too(stand_in: None, tmp_path: Path) -> None:
    path = save_causal(tmp_path / "model")
    plain = scalar_from_causal(str(path), 64, 0, SingleDevice("cpu"), 0).eval()
    changed = scalar_from_causal(str(path), 64, 0, SingleDevice("cpu"), 0).eval()
    use_xformers(changed)
    where = torch.ones_like(TOKENS, dtype=torch.bool)
    assert changed.model.config._attn_implementation == XFORMERS
    torch.testing.assert_close(changed(TOKENS, where), plain(TOKENS, where))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_a_model_computes_what_it_computes_with_torchs_attention(
    stand_in: None, tmp_path: Path, family: str, packed: bool, half: bool
) -> None:
    model: Any = load_causal(str(save_causal(tmp_path, family)), SingleDevice("cpu"), trained=True)
    attention = positions = None
    if packed:
        # Two examples a row, of 3 and 4 tokens, that do not see each other.
        example = torch.tensor([0, 0, 0, 1, 1, 1, 1])
        together = (example[:, None] == example) & torch.ones(7, 7, dtype=torch.bool).tril()
        attention = together.expand(2, 1, 7, 7)
        positions = torch.tensor([0, 1, 2, 0, 1, 2, 3]).expand(2, 7)

    def run() -> tuple[Tensor, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            hidden = hidden_states(model, TOKENS, positions, attention)
        hidden.float().square().sum().backward()
        return hidden.detach(), model.get_input_embeddings().weight.grad.clone()

    expected = run()
    use_xformers(model)
    assert model.config._attn_implementation == XFORMERS
    for ours, theirs in zip(run(), expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=2e-2 if half else 1e-4, atol=5e-2 if half else 1e-5
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_masks_that_transformers_makes_reach_it(
    stand_in: None, tmp_path: Path, family: str
) -> None:
    model: Any = load_causal(str(save_causal(tmp_path, family)), SingleDevice("cpu"), trained=False)
    counts = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    expected = model(input_ids=TOKENS, attention_mask=counts).logits
    use_xformers(model)
    ours = model(input_ids=TOKENS, attention_mask=counts).logits
    there = counts.bool()
    torch.testing.assert_close(ours[there], expected[there], rtol=1e-4, atol=1e-5)


def test_where_xformers_cannot_run_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "xformers_missing", lambda: "xformers is not installed")
    with pytest.raises(ConfigError, match=r"attention=xformers.*not installed.*attention=auto"):
        SingleDevice("cpu", attention="xformers")
    monkeypatch.setattr(strategy, "xformers_missing", lambda: None)
    with pytest.raises(ConfigError, match="no CPU path"):
        SingleDevice("cpu", attention="xformers")


def test_every_model_that_is_placed_attends_by_it(stand_in: None, tmp_path: Path) -> None:
    cpu = SingleDevice("cpu")
    cpu.xformers = True  # as on a GPU
    model: Any = load_causal(str(save_causal(tmp_path)), cpu, trained=True)
    assert model.config._attn_implementation == XFORMERS
    # It is the run's affair: nothing of it is in what is exported.
    model.save_pretrained(tmp_path / "exported")
    assert XFORMERS not in (tmp_path / "exported/config.json").read_text()


def test_a_model_whose_attention_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Linear does not let.*attention=auto"):
        use_xformers(torch.nn.Linear(2, 2))


def test_what_would_be_lost_is_refused(stand_in: None) -> None:
    heads, module = torch.zeros(1, 2, 3, 8), torch.nn.Linear(2, 2)
    for name in ("softcap", "position_bias", "s_aux"):
        with pytest.raises(ConfigError, match=name):
            xformers_attention(module, heads, heads, heads, None, **{name: torch.ones(1)})
    with pytest.raises(ValueError, match="3 queries for 2 keys"):
        xformers_attention(module, heads, heads[:, :, :2], heads[:, :, :2], None)
