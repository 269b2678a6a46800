"""Muon beside AdamW: who gets what, one step of each, and a checkpoint between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import configure, minimal_stage, tiny_config
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fairlead.checkpoint import CheckpointStore, ModelState, OptimizerState
from fairlead.errors import ConfigError
from fairlead.optim import LearningRate, Updater
from fairlead_plugins.training.muon import is_hidden_matrix


def spec(**settings: Any) -> Any:
    """A stage's optimizer, chosen as a recipe chooses it."""
    stage = {**minimal_stage(), "optimizer": {"name": "muon", **settings}}
    config, _ = configure({"stages": {"s": stage}})
    return config.stages["s"].config.optimizer  # type: ignore[attr-defined]


def updater(model: nn.Module, lr: LearningRate | None = None, **settings: Any) -> Updater:
    return Updater(model, spec(**settings), lr or LearningRate(peak=1.0, shape="constant"), None)


def causal(family: str = "gpt2") -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family))


def groups(model: nn.Module, **settings: Any) -> list[set[str]]:
    """The names of each group's parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    made = updater(model, **settings).optimizer
    return [{names[parameter] for parameter in group["params"]} for group in made.param_groups]


# --- which parameters go where ------------------------------------------------------------


def test_gpt2s_block_matrices_are_muons_and_the_rest_is_adamws() -> None:
    model = causal("gpt2")
    muon, embeddings, vectors = groups(model)
    assert muon == {
        f"transformer.h.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert embeddings == {"transformer.wte.weight", "transformer.wpe.weight"}  # the head is tied
    assert {model.get_parameter(name).ndim for name in vectors} == {1}
    assert muon | embeddings | vectors == {name for name, _ in model.named_parameters()}


def test_llamas_block_matrices_are_muons_and_the_rest_is_adamws() -> None:
    model = causal("llama")
    muon, embeddings, vectors = groups(model)
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    mlp = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert muon == {
        f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in [*attention, *mlp]
    }
    assert embeddings >= {"model.embed_tokens.weight"}
    assert all("norm" in name for name in vectors)


def test_a_reward_models_head_is_adamws() -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_config("gpt2", num_labels=1))
    muon, others, _ = groups(model)
    assert "score.weight" in others
    assert len(muon) == 8


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("model.layers.3.mlp.shared_expert.up_proj.weight", True),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False),
        ("gpt_neox.embed_out.weight", False),
        ("embed_tokens.0.weight", False),
        ("model.decoder.project_in.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_a_name_decides(name: str, hidden: bool) -> None:
    assert is_hidden_matrix(name, nn.Parameter(torch.zeros(2, 2))) is hidden
    assert not is_hidden_matrix(name, nn.Parameter(torch.zeros(2)))
    assert not is_hidden_matrix(name, nn.Parameter(torch.zeros(2, 2, 2)))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no matrix of a numbered block among 2 .*adamw"):
        updater(nn.Linear(2, 2))


def test_matrices_alone_need_no_adamw() -> None:
    assert groups(nn.ModuleList([nn.Linear(2, 2, bias=False)])) == [{"0.weight"}]


# --- one step -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "adjust_lr", "scale"),
    [
        ((32, 128), "original", 1.0),
        ((128, 32), "original", 2.0),  # sqrt(128 / 32)
        ((32, 128), "match_rms_adamw", 0.2 * 128**0.5),
        ((128, 32), "match_rms_adamw", 0.2 * 128**0.5),
    ],
)
def test_a_step_on_a_matrix_is_nearly_orthogonal(
    shape: tuple[int, int], adjust_lr: str, scale: float
) -> None:
    """The gradient's singular values spread by a factor of 3; the step's are all about 1.

    Its directions stay the gradient's: ``U^T step V`` is diagonal.
    """
    torch.manual_seed(0)
    gradient = torch.randn(shape)
    model = nn.ModuleList([nn.Linear(shape[1], shape[0], bias=False)])
    weight = model.get_parameter("0.weight")
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    updater(model, adjust_lr=adjust_lr).step(1, 1)
    step = (before - weight.detach()) / scale
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    assert values.max() / values.min() > 2.5
    turned = left.T @ step @ right.T
    assert ((turned.diagonal() > 0.65) & (turned.diagonal() < 1.25)).all()
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 0.02


def test_adamws_first_step_is_its_share_of_the_rate() -> None:
    """AdamW's first step is the rate along the gradient's sign: 0.02 * 0.15 = 0.003."""
    model = nn.ModuleList([nn.Linear(4, 4)])
    bias = model.get_parameter("0.bias")
    before = bias.detach().clone()
    model.get_parameter("0.weight").grad = torch.eye(4)
    bias.grad = torch.tensor([1.0, -2.0, 3.0, -4.0])
    updater(model, LearningRate(peak=0.02, shape="constant")).step(1, 1)
    expected = torch.tensor([-0.003, 0.003, -0.003, 0.003])
    torch.testing.assert_close(bias.detach() - before, expected, rtol=1e-3, atol=0)


def test_the_schedule_moves_every_group_by_its_scale() -> None:
    model = causal()
    stepper = updater(model, LearningRate(peak=0.02), adamw_scale=0.5)
    for step, rate in ((1, 0.02), (2, 0.011), (3, 0.002)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        assert stepper.step(step, 3)["lr"] == pytest.approx(rate)
        rates = [group["lr"] for group in stepper.optimizer.param_groups]
        assert rates == pytest.approx([rate, rate / 2, rate / 2])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weight_decay_leaves_vectors_alone() -> None:
    made = updater(causal(), weight_decay=0.1).optimizer
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.1, 0.0]


def test_a_closure_runs_once_with_gradients() -> None:
    model = nn.ModuleList([nn.Linear(2, 2)])
    made = updater(model).optimizer
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return 3.0

    assert made.step(closure) == 3.0
    assert calls == [True]


# --- checkpoints --------------------------------------------------------------------------


def train(model: Any, stepper: Updater, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tokens = torch.randint(0, 20, (2, 8), generator=torch.Generator().manual_seed(step))
        model(tokens, labels=tokens).loss.backward()
        stepper.step(step, 5)


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    """The state is one numbering over both optimizers; the rates after it are the schedule's."""
    lr = LearningRate(peak=0.02)
    model = causal().eval()  # no dropout
    stepper = updater(model, lr)
    train(model, stepper, 1, 2)
    store = CheckpointStore(tmp_path)
    store.save(2, {"model": ModelState(model), "optimizer": OptimizerState(stepper.optimizer)})

    fresh = causal().eval()
    again = updater(fresh, lr)
    state = OptimizerState(again.optimizer)
    assert store.load({"model": ModelState(fresh), "optimizer": state}) == 2
    saved = OptimizerState(stepper.optimizer).tensors()
    restored = state.tensors()
    assert len(saved) == 8 + 3 * (2 + 18)  # a momentum a matrix; step and two moments the others
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[name], saved[name]) for name in saved)
    assert all(restored[name].dtype == saved[name].dtype for name in saved)

    train(model, stepper, 3, 5)
    train(fresh, again, 3, 5)
    for name, parameter in model.named_parameters():
        assert torch.equal(fresh.get_parameter(name), parameter), name


# --- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"adjust_lr": "moonshot"}, "adjust_lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"adamw_scale": 0.0}, "adamw_scale"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"nesterow": False}, "nesterov"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        spec(**settings)
