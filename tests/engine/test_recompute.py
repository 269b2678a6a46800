"""Gradient checkpointing: the same gradients from less that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rl import PROMPTS, request
from support import FAMILIES, metrics, recipe, run_stages, save_causal, save_scalar, weights
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from fairlead import recompute
from fairlead.data import pad
from fairlead.errors import ConfigError
from fairlead.generation.native import NativeBackend, NativeConfig
from fairlead.generation.recorded import _can_be_recorded, _likeness
from fairlead.models import load_causal, target_logprobs
from fairlead.recompute import use_recomputation
from fairlead.scalar import load_scalar
from fairlead.scorer import response_targets
from fairlead.strategy import SingleDevice

PLAIN, SPARING = SingleDevice("cpu"), SingleDevice("cpu", gradient_checkpointing=True)
LENGTHS = torch.tensor([len(ids) for ids in PROMPTS])
TOKENS = pad(PROMPTS)
TARGETS = response_targets(TOKENS, torch.ones_like(LENGTHS), LENGTHS - 1)


def causal(path: Path, strategy: SingleDevice = SPARING, **more: Any) -> Any:
    return load_causal(str(path), strategy, trained=True, **more)


def gradients(model: Any, *, half: bool = False, lengths: Tensor | None = LENGTHS) -> Any:
    """Log-probs, and the gradient of every parameter."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logprobs, entropy = target_logprobs(model, TOKENS, TARGETS, 0.7, lengths=lengths)
    (logprobs + entropy.square()).sum().backward()
    return logprobs.detach(), {name: one.grad for name, one in model.named_parameters()}


def kept_bytes(model: Any) -> int:
    """What a forward pass keeps for its backward, parameters apart."""
    own = {one.data_ptr() for one in model.parameters()}
    seen: dict[int, int] = {}

    def keep(one: Tensor) -> Tensor:
        if one.data_ptr() not in own:
            seen[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        held = target_logprobs(model, TOKENS, TARGETS, lengths=LENGTHS)
    assert held[0].requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_to_the_last_bit(family: str, half: bool, tmp_path: Path) -> None:
    """As the RL stage trains: in evaluation mode (fidelity item 12), without padding and with."""
    path = save_causal(tmp_path, family)
    for lengths in (LENGTHS, None):
        expected, found = (
            gradients(causal(path, strategy), half=half, lengths=lengths)
            for strategy in (PLAIN, SPARING)
        )
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_what_dropout_drops_is_dropped_again(family: str, tmp_path: Path) -> None:
    path = save_causal(tmp_path, family)
    found = []
    for strategy in (PLAIN, SPARING):
        model = causal(path, strategy, residual_dropout=0.3).train()
        torch.manual_seed(3)
        found.append(gradients(model))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    torch.manual_seed(4)
    assert not torch.equal(gradients(model)[0], found[0][0])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_layer_keeps_its_input_alone(family: str, tmp_path: Path) -> None:
    sizes: dict[int, list[int]] = {}
    for layers in (2, 6):
        path = save_causal(tmp_path / str(layers), family, num_hidden_layers=layers)
        sizes[layers] = [kept_bytes(causal(path, strategy)) for strategy in (PLAIN, SPARING)]
    plain, sparing = ((sizes[6][which] - sizes[2][which]) // 4 for which in (0, 1))
    # A layer's input is [32, 16] float32: the 23 tokens are rounded up.
    assert sparing == 32 * 16 * 4
    assert plain > 10 * sparing


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_value_model_is_trained_so_too(family: str, tmp_path: Path) -> None:
    path = save_scalar(tmp_path, family)
    found = []
    for strategy in (PLAIN, SPARING):
        model = load_scalar(str(path), strategy, trained=True)
        model(TOKENS, TARGETS, LENGTHS).square().sum().backward()
        found.append({name: one.grad for name, one in model.named_parameters()})
        classes = {type(one) for one in model.modules()}
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert any(one.__module__ == recompute.__name__ for one in classes)


def test_generation_is_not_slowed_down_by_it(tmp_path: Path) -> None:
    """The step is recorded, once for all such models, and draws what it would have drawn."""
    path = save_causal(tmp_path)
    backend = NativeBackend(NativeConfig())
    responses = []
    for strategy in (PLAIN, SPARING, SPARING):
        model = causal(path, strategy)
        assert _can_be_recorded(model)
        responses.append([one.tokens.tolist() for one in backend.generate(model, request())])
    assert responses[0] == responses[1] == responses[2]
    assert _likeness(model) == _likeness(causal(path))


def test_a_cache_is_filled_once(tmp_path: Path) -> None:
    model = causal(save_causal(tmp_path, "llama"))
    cache = DynamicCache()
    logits = model(input_ids=TOKENS[2:3], past_key_values=cache, use_cache=True).logits
    logits.sum().backward()
    assert cache.get_seq_length() == 5


def test_frozen_models_are_left_as_they_are(tmp_path: Path) -> None:
    model = load_causal(str(save_causal(tmp_path)), SPARING, trained=False)
    assert all(type(one).__module__ != recompute.__name__ for one in model.modules())


def test_a_model_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = OpenAIGPTConfig(vocab_size=24, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"OpenAIGPTLMHeadModel.*=false.*token_budget"):
        causal(tmp_path)
    # As some models say whose code is their own.
    monkeypatch.setattr(OpenAIGPTLMHeadModel, "supports_gradient_checkpointing", True)
    with pytest.raises(ConfigError, match="OpenAIGPTLMHeadModel has no layers"):
        causal(tmp_path)
    with pytest.raises(ConfigError, match="Linear has no layers"):
        use_recomputation(torch.nn.Linear(2, 2))
    refuses: Any = AutoModelForCausalLM.from_pretrained(save_causal(tmp_path / "other"))
    refuses.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match="GPT2LMHeadModel"):
        use_recomputation(refuses)


def test_every_stage_trains_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretraining, SFT with dropout, the reward model, PPO's policy and value model."""
    overrides = ["threads=1", "pretrain.steps=3", "ppo.iterations=2", "sft.residual_dropout=0.2"]
    run_stages(recipe("tiny"), tmp_path / "plain", overrides=overrides)
    kept_noise: set[bool] = set()

    def spy(*inputs: Any, preserve_rng_state: bool, **more: Any) -> Any:
        kept_noise.add(preserve_rng_state)
        return checkpoint(*inputs, preserve_rng_state=preserve_rng_state, **more)

    monkeypatch.setattr(recompute, "checkpoint", spy)
    overrides.append("gradient_checkpointing=true")
    run_stages(recipe("tiny"), tmp_path / "sparing", overrides=overrides)
    assert kept_noise == {True, False}
    for stage in ("pretrain", "sft", "rm", "ppo"):
        plain, sparing = (metrics(tmp_path / way / stage) for way in ("plain", "sparing"))
        assert len(plain) == len(sparing) > 1
        for expected, found in zip(plain, sparing, strict=True):
            measured = ("time", "memory/", "eps", "seconds_per_")
            same = {key for key in expected if not key.startswith(measured)}
            assert {key: found[key] for key in same} == {key: expected[key] for key in same}
        trained = (weights(tmp_path / way / stage) for way in ("plain", "sparing"))
        torch.testing.assert_close(*trained, atol=0, rtol=0)
