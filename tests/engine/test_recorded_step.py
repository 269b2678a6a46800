"""The recording of a decoding step: when there is one, and that it computes what the model does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import needs_native
from generating import as_it_is, respond, rows
from rl import PROMPTS, request
from support import FAMILIES, save_causal
from transformers import MixtralConfig, MixtralForCausalLM

from fairlead.errors import brief
from fairlead.generation import bound, cache, recorded, step
from fairlead.generation.attend import attending
from fairlead.generation.native import NativeBackend, NativeConfig
from fairlead.models import load_causal, ready
from fairlead.strategy import SingleDevice
from fairlead_kernels import add_layer_norm, register_implementation
from fairlead_kernels.dispatch import registry

CONTEXT = 64
OPS = torch.ops.fairlead_kernels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = save_causal(tmp_path_factory.mktemp("model"), initializer_range=0.3)
    return load_causal(str(directory), SingleDevice("cpu"), trained=True)


def test_it_generates_with_the_weights_as_they_are_now(tmp_path: Path) -> None:
    """What was recorded and packed before a training step must not be used after it."""
    model: Any = load_causal(
        str(save_causal(tmp_path, initializer_range=0.3)), SingleDevice("cpu"), trained=True
    )
    before = respond(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(0.5)
    after = respond(model)
    assert rows(after) != rows(before)
    plain = NativeBackend(NativeConfig(record=False)).generate(model, request(temperature=1.0))
    assert rows(after) == rows(plain)


@needs_native
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_attention_stores_what_is_new_itself(tmp_path: Path, family: str) -> None:
    recorded._KEPT.clear()
    model: Any = load_causal(str(save_causal(tmp_path, family)), SingleDevice("cpu"), trained=True)
    respond(model)
    (kept,) = recorded._KEPT.values()
    assert kept is not None
    called = [str(node.target) for node in kept.graph.nodes]
    assert not any("index_put" in one for one in called)
    appended = [one for one in called if "append_attention" in one]
    assert len(appended) == model.config.num_hidden_layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("half", [False, True])
def test_every_family_is_recorded(tmp_path: Path, family: str, half: bool) -> None:
    """A silent fall back to the slow way would pass every other test."""
    recorded._KEPT.clear()
    strategy = SingleDevice("cpu", "bfloat16" if half else "float32")
    model: Any = load_causal(str(save_causal(tmp_path, family)), strategy, trained=True)
    with strategy.autocast():
        respond(model)
    (kept,) = recorded._KEPT.values()
    assert kept is not None


def test_a_cpu_that_lays_no_bfloat16_weights_out_records_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN refuses them on a CPU with AVX2 alone, and does so when they are given to it."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    recorded._KEPT.clear()
    strategy = SingleDevice("cpu", "bfloat16")
    model: Any = load_causal(str(save_causal(tmp_path)), strategy, trained=True)
    with strategy.autocast():
        assert all(len(one.tokens) for one in respond(model))
    (kept,) = recorded._KEPT.values()
    assert kept is not None
    assert "'onednn'" not in kept._prepare.code
    recorded._KEPT.clear()


def test_models_built_alike_share_a_recording_and_not_their_weights(tmp_path: Path) -> None:
    recorded._KEPT.clear()
    first, second = (
        load_causal(
            str(save_causal(tmp_path / str(seed), seed=seed, initializer_range=0.3)),
            SingleDevice("cpu"),
            trained=True,
        )
        for seed in (1, 2)
    )
    assert rows(respond(first)) != rows(respond(second))
    assert len(recorded._KEPT) == 1
    assert rows(respond(second)) == rows(
        NativeBackend(NativeConfig(record=False)).generate(second, request(temperature=1.0))
    )


def test_a_recording_that_computes_something_else_is_not_used(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = respond(model)
    recorded._KEPT.clear()
    real = bound.BoundStep.run
    monkeypatch.setattr(
        bound.BoundStep, "run", lambda self, count: real(self, count).roll(1, dims=-1)
    )
    assert rows(respond(model)) == rows(whole)
    assert list(recorded._KEPT.values()) == [None]


@needs_native
def test_a_recording_that_stores_nothing_is_not_used(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model has stored before would hide it."""
    whole = respond(model)
    recorded._KEPT.clear()
    real = step.store_within_attention

    def forgetful(graph: Any) -> None:
        real(graph)
        for node in list(graph.nodes):
            if "append_attention" in str(node.target):
                query, _, _, *others = node.args
                node.target, node.args = OPS.decode_attention.default, (query, *others)

    monkeypatch.setattr(step, "store_within_attention", forgetful)
    assert rows(respond(model)) == rows(whole)
    assert list(recorded._KEPT.values()) == [None]


@pytest.fixture
def plugins_norm() -> Iterator[Callable[[Any], None]]:
    """Registers a plugin's add_layer_norm, and takes it back."""
    there = registry._implementations["add_layer_norm"]
    before = list(there)

    def register(function: Any) -> None:
        there[:] = before
        register_implementation(
            "add_layer_norm",
            "mine",
            function,
            available=lambda: None,
            supports=lambda *_: None,
            priority=200,
            owner="norms.py",
        )

    yield register
    there[:] = before
    recorded._KEPT.clear()


@needs_native
def test_a_plugins_kernel_that_comes_after_a_recording_is_taken(
    model: Any, plugins_norm: Callable[[Any], None]
) -> None:
    called: list[int] = []

    def counting(x: Any, *args: Any) -> Any:
        called.append(len(x))
        return add_layer_norm(x, *args, impl="reference")

    before = rows(respond(model))
    plugins_norm(counting)
    assert rows(respond(model)) == before
    assert called


@needs_native
def test_a_plugins_kernel_that_is_wrong_for_many_rows_is_named_and_not_used(
    model: Any, plugins_norm: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    expected = as_it_is(model)

    def wrong(x: Any, *args: Any) -> Any:
        total, normed = add_layer_norm(x, *args, impl="reference")
        return total, normed * (1.5 if len(x) > 5 else 1)

    plugins_norm(wrong)
    for _ in range(2):  # said once
        assert rows(respond(model)) == expected
    (line,) = (one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING)
    assert line == (
        "a recording of GPT2LMHeadModel with add_layer_norm/mine of norms.py computes something "
        "else and is not used"
    )


@needs_native
def test_opt_adds_where_it_normalises_as_gpt2_does(tmp_path: Path) -> None:
    recorded._KEPT.clear()
    directory = str(save_causal(tmp_path, "opt"))
    respond(load_causal(directory, SingleDevice("cpu"), trained=True))
    (kept,) = recorded._KEPT.values()
    assert kept is not None
    called = [str(node.target) for node in kept.graph.nodes]
    assert not any("native_layer_norm" in one for one in called)


@needs_native
def test_a_recording_that_is_wrong_for_fewer_rows_is_not_used(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = respond(model)
    recorded._KEPT.clear()
    real = bound.BoundStep.run

    def run(self: Any, count: int) -> Any:
        return real(self, count) if count == len(self.result) else self.result.zero_()

    monkeypatch.setattr(bound.BoundStep, "run", run)
    assert rows(respond(model)) == rows(whole)
    assert list(recorded._KEPT.values()) == [None]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.transformer.h[1].mlp.register_forward_hook(lambda *a: a[2] * 3),
        lambda model: setattr(model.transformer.h[0].ln_1, "eps", 1.0),
    ],
    ids=["a hook", "an attribute"],
)
def test_what_changes_a_model_after_it_was_recorded_counts(tmp_path: Path, change: Any) -> None:
    model: Any = load_causal(
        str(save_causal(tmp_path, initializer_range=0.3)), SingleDevice("cpu"), trained=True
    )
    before = rows(respond(model))
    change(model)
    after = rows(respond(model))
    assert after != before
    assert after == as_it_is(model)


def test_a_failed_attempt_with_bad_weights_is_not_for_good(tmp_path: Path) -> None:
    model: Any = load_causal(str(save_causal(tmp_path)), SingleDevice("cpu"), trained=True)
    recorded._KEPT.clear()
    kept = model.transformer.ln_f.weight.detach().clone()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    respond(model)
    assert not recorded._KEPT
    with torch.no_grad():
        model.transformer.ln_f.weight.copy_(kept)
    respond(model)
    (found,) = recorded._KEPT.values()
    assert found is not None


def test_a_model_that_cannot_be_recorded_is_one_short_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """torch traces no mixture of experts in float32, and logs a traceback of its own."""
    recorded._KEPT.clear()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=64,
        sliding_window=None,
    )
    model: Any = ready(MixtralForCausalLM(config), SingleDevice("cpu"), trained=True)
    tracing = logging.getLogger("torch._subclasses.fake_tensor")
    tracing.addHandler(caplog.handler)
    try:
        respond(model)
    finally:
        tracing.removeHandler(caplog.handler)
    (line,) = (one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING)
    assert line.startswith("decoding MixtralForCausalLM step by step, which is slower: ")
    assert "\n" not in line
    assert len(line) < 250


def test_an_error_in_brief_is_its_first_line_cut() -> None:
    assert brief(ValueError("one\ntwo")) == "one"
    assert brief(ValueError()) == "ValueError"
    assert brief(ValueError("word " * 100)) == "word " * 31 + "..."


def test_float32_and_bfloat16_weights_have_recordings_of_their_own(tmp_path: Path) -> None:
    recorded._KEPT.clear()
    directory = str(save_causal(tmp_path, initializer_range=0.3))
    whole = load_causal(directory, SingleDevice("cpu"), trained=True)
    half = load_causal(directory, SingleDevice("cpu", "bfloat16"), trained=False)
    assert rows(respond(whole)) == as_it_is(whole)
    assert len(respond(half)) == len(PROMPTS)
    assert [one is not None for one in recorded._KEPT.values()] == [True, True]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recording_computes_what_the_model_does(tmp_path: Path, precision: str) -> None:
    """To 1e-5 of the largest logit, autocast included: its casts are recorded, and none added."""
    strategy = SingleDevice("cpu", precision)
    model: Any = load_causal(
        str(save_causal(tmp_path, "qwen2", initializer_range=0.3)), strategy, trained=True
    )
    with torch.no_grad(), strategy.autocast(), attending(model, 16):
        slots = cache.SlotCache(cache.layer_shapes(model), 4, 16, model.device)
        for one in (*slots.keys, *slots.values):
            one.normal_(generator=torch.Generator().manual_seed(0))
        recording = step.Recording(model, slots)
        prepared = recording.ready(model)
        tokens, positions = torch.tensor([3, 1, 4, 1]), torch.tensor([0, 5, 15, 9])
        expected = step.eager_logits(model, slots, *slots.live(4), tokens, positions)
        found = recording.bind(prepared, *slots.live(4), tokens, positions, bound.Arena()).result
    assert found.dtype == expected.dtype
    allowed = 1e-5 if precision == "float32" else 1e-2
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed * largest)
