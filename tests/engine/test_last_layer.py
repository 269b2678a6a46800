"""A last layer that goes on with some positions gives the same at those."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import FAMILIES, save_causal, save_scalar
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fairlead import ragged
from fairlead.data import pad
from fairlead.generation.recorded import _can_be_recorded
from fairlead.last_layer import heard, is_told, take, tell
from fairlead.models import ready, target_logprobs
from fairlead.scalar import load_scalar
from fairlead.scorer import response_targets
from fairlead.strategy import SingleDevice

ROWS = [[3, 4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
LENGTHS = torch.tensor([7, 2, 3, 5])
PROMPTS = torch.tensor([4, 1, 1, 3])
TARGETS = response_targets(pad(ROWS), PROMPTS, LENGTHS - PROMPTS)
ALL = -1.0
"""Of `ragged._FEWER`: the last layer goes on with all positions."""


def causal(directory: Path, family: str = "gpt2", **strategy: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(save_causal(directory, family))
    return ready(model, SingleDevice("cpu", **strategy), trained=True)


def rows_of(model: Any, suffixes: tuple[str, ...]) -> dict[str, int]:
    """How many rows come out of modules of these names in a pass over `ROWS`."""
    seen: dict[str, int] = {}

    def note(name: str, _module: Any, _given: Any, result: Tensor) -> None:
        seen[name] = result.numel() // result.shape[-1]

    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if name.endswith(suffixes)
    ]
    with torch.no_grad():
        target_logprobs(model, pad(ROWS), TARGETS, lengths=LENGTHS)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_last_layer_computes_what_is_read_and_no_more(tmp_path: Path) -> None:
    """17 tokens of 7 + 2 + 3 + 5; 3 + 1 + 2 + 2 = 8 predict a response token."""
    seen = rows_of(causal(tmp_path), ("c_attn", "c_proj", "c_fc", "ln_1", "ln_2"))
    run = 28  # the next multiple of 32, or all that there is
    kept = 8  # rounded up it would be all again
    last = "transformer.h.1."
    for name, rows in seen.items():
        narrow = name.startswith(last) and not name.endswith(("c_attn", "ln_1"))
        assert rows == (kept if narrow else run), name


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_are_those_of_all_positions(
    family: str, recomputed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fidelity item 27, and gradient checkpointing runs the same again."""
    model = causal(tmp_path, family, gradient_checkpointing=recomputed)
    assert model._keeps_some
    found = []
    for share in (ragged._FEWER, ALL):
        monkeypatch.setattr(ragged, "_FEWER", share)
        model.zero_grad()
        logprobs, _ = target_logprobs(model, pad(ROWS), TARGETS, lengths=LENGTHS)
        (logprobs * torch.linspace(1, 2, len(logprobs))).sum().backward()
        gradients = {name: one.grad.clone() for name, one in model.named_parameters()}
        found.append((logprobs.detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_a_reward_model_goes_on_with_last_tokens(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fidelity item 5."""
    precision = "bfloat16" if half else "float32"
    strategy = SingleDevice("cpu", precision)
    model = load_scalar(str(save_scalar(tmp_path)), strategy, trained=False)
    found = []
    for share in (ragged._FEWER, ALL):
        monkeypatch.setattr(ragged, "_FEWER", share)
        with torch.no_grad(), strategy.autocast():
            found.append(model.at_last_token(pad(ROWS), LENGTHS))
    assert model.model._keeps_some
    torch.testing.assert_close(*found, atol=0.02 if half else 1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("phi", {"intermediate_size": 32}),  # one norm for attention and for what is beside it
        ("olmo2", {"intermediate_size": 32, "num_key_value_heads": 2}),  # norms come afterwards
    ],
)
def test_a_family_that_cannot_goes_on_with_all_positions(
    kind: str, settings: dict[str, Any]
) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=24, pad_token_id=0, **shape, **settings)
    fresh = AutoModelForCausalLM.from_config(config)
    model: Any = ready(fresh, SingleDevice("cpu"), trained=True)
    assert model._ragged
    assert not model._keeps_some
    assert not any(type(one).__module__ == "fairlead.last_layer" for one in model.modules())
    with torch.no_grad():
        found, _ = target_logprobs(model, pad(ROWS), TARGETS, lengths=LENGTHS)
        padded, _ = target_logprobs(model, pad(ROWS), TARGETS)
    torch.testing.assert_close(found, padded, atol=1e-5, rtol=1e-5)


def test_a_pass_leaves_no_hook_behind(tmp_path: Path) -> None:
    """With hooks a decoding step is not recorded."""
    model = causal(tmp_path)
    target_logprobs(model, pad(ROWS), TARGETS, lengths=LENGTHS)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert _can_be_recorded(model)


def test_a_pass_that_fails_leaves_no_hook_behind(tmp_path: Path) -> None:
    model = causal(tmp_path)
    model.transformer.h[1].mlp.forward = None
    with pytest.raises(TypeError):
        target_logprobs(model, pad(ROWS), TARGETS, lengths=LENGTHS)
    assert not any(module._forward_pre_hooks for module in model.modules())


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 3))
def test_taken_rows_and_their_gradients_are_those_of_an_index(chosen: list[bool], h: int) -> None:
    index = torch.tensor(chosen).nonzero().squeeze(1)
    rows = torch.randn(1, len(chosen), h, dtype=torch.float64, requires_grad=True)
    taken = take(rows, index)
    assert torch.equal(taken, rows[:, index])
    weight = torch.randn_like(taken)
    expected = torch.autograd.grad((rows[:, index] * weight).sum(), rows)
    assert torch.equal(torch.autograd.grad((taken * weight).sum(), rows)[0], expected[0])


def test_what_is_told_is_heard() -> None:
    offsets, kept = torch.tensor([0, 3, 5]), torch.tensor([1, 4])
    told = tell(offsets, 3, kept)
    assert is_told(told)
    assert not is_told(torch.ones(1, 1, 3, 3, dtype=torch.bool))
    found: list[Tensor | int] = [*heard(told)]
    assert torch.equal(found[0], offsets)  # type: ignore[arg-type]
    assert found[1] == 3
    assert torch.equal(found[2], kept)  # type: ignore[arg-type]
    assert not len(heard(tell(offsets, 3, kept[:0]))[2])


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_all_go_on_where_some_would_spare_little(chosen: list[bool]) -> None:
    """At most 7 of 8 are kept, every marked one among them."""
    marked = torch.tensor(chosen)
    kept = ragged._kept(marked)
    if sum(chosen) > len(chosen) * 7 / 8:
        assert not len(kept)
    else:
        assert len(kept) <= len(chosen) * 7 / 8
        assert set(marked.nonzero().flatten().tolist()) <= set(kept.tolist())
