"""The optimizer step, schedules and the average of the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import configure, minimal_stage, save_causal
from torch import nn

from fairlead.errors import NonFiniteError
from fairlead.models import load_causal, target_logprobs
from fairlead.optim import LearningRate, Updater, WeightAverage, check_finite
from fairlead.plugins import load_plugins
from fairlead.strategy import SingleDevice
from fairlead_plugins.pretrain.config import PretrainConfig


def optimizer_spec(**settings: Any) -> Any:
    """The stage's default optimizer, or one with other settings."""
    stage = {**minimal_stage(), "optimizer": {"name": "adamw", **settings}}
    config, _ = configure({"stages": {"s": stage}}, plugins=load_plugins())
    chosen = config.stages["s"].config
    assert isinstance(chosen, PretrainConfig)
    return chosen.optimizer


def one_weight(value: float = 1.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def updater(model: nn.Module, clip: float | None = None, peak: float = 0.1) -> Updater:
    return Updater(model, optimizer_spec(), LearningRate(peak=peak, shape="constant"), clip)


# --- AdamW --------------------------------------------------------------------------------


def test_adamw_has_the_papers_betas_and_no_decay() -> None:
    """Betas 0.9 and 0.95 (paper), eps 1e-5 (lm-human-preferences), weight decay 0."""
    config, _ = configure({"stages": {"s": minimal_stage()}})
    made = Updater(
        nn.Linear(2, 2), config.stages["s"].config.optimizer, LearningRate(peak=1.0), None
    )
    for group in made.optimizer.param_groups:
        assert tuple(group["betas"]) == (0.9, 0.95)
        assert (group["eps"], group["weight_decay"]) == (1e-5, 0.0)


def test_one_step_of_adamw_by_hand() -> None:
    """Gradients 2 then 1 at rate 0.1.

    Step 1: m = 0.2, v = 0.2; corrected m = 2, v = 4: 1 - 0.1 * 2 / (2 + 1e-5) = 0.9000005.
    Step 2: m = 0.9 * 0.2 + 0.1 = 0.28, v = 0.95 * 0.2 + 0.05 = 0.24; corrected
    m = 0.28 / 0.19 = 1.473684, v = 0.24 / 0.0975 = 2.461538.
    """
    model = one_weight()
    stepper = updater(model)
    for step, gradient in ((1, 2.0), (2, 1.0)):
        model.weight.grad = torch.tensor([[gradient]])
        stepper.step(step, 2)
    expected = 1 - 0.1 * 2 / (2 + 1e-5) - 0.1 * (0.28 / 0.19) / (math.sqrt(0.24 / 0.0975) + 1e-5)
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_weight_decay_leaves_vectors_alone() -> None:
    model = nn.Linear(2, 2)
    made = optimizer_spec(weight_decay=0.1).build()(list(model.named_parameters()))
    decays = {tuple(p.shape): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    assert decays == {(2, 2): 0.1, (2,): 0.0}


def test_gradients_are_cleared_by_the_step() -> None:
    model = one_weight()
    model.weight.grad = torch.tensor([[2.0]])
    updater(model).step(1, 1)
    assert model.weight.grad is None


# --- schedules ----------------------------------------------------------------------------


def test_cosine_falls_from_the_peak_to_a_tenth_without_a_warm_up() -> None:
    """Five steps: the middle one is at 0.1 + 0.9 / 2 = 0.55 of the peak."""
    rate = LearningRate(peak=2.0)
    assert [rate.at(step, 5) for step in (1, 3, 5)] == pytest.approx([2.0, 1.1, 0.2])
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert rate.at(2, 5) == pytest.approx(2.0 * quarter)
    assert rate.at(1, 1) == 2.0


def test_a_warm_up_is_linear_from_a_tenth_of_the_peak() -> None:
    """Ten steps, the paper's iterations: 0.1 at the first, 0.19 at the second, 1 at the 11th."""
    rate = LearningRate(peak=1.0, shape="constant", warmup=10)
    assert [rate.at(s, 99) for s in (1, 2, 10, 11, 99)] == pytest.approx([0.1, 0.19, 0.91, 1, 1])


def test_a_cosine_after_a_warm_up_starts_at_the_peak() -> None:
    rate = LearningRate(peak=1.0, warmup=2)
    assert [rate.at(s, 5) for s in (3, 4, 5)] == pytest.approx([1.0, 0.55, 0.1])


def test_the_step_reports_the_rate_it_used() -> None:
    model = one_weight()
    stepper = Updater(model, optimizer_spec(), LearningRate(peak=0.5), None)
    for step, expected in ((1, 0.5), (2, 0.275), (3, 0.05)):
        model.weight.grad = torch.ones(1, 1)
        assert stepper.step(step, 3)["lr"] == pytest.approx(expected)
        assert stepper.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


# --- clipping, and what is not finite -----------------------------------------------------


class TakesGradients:
    """An optimizer that notes what it is given: SGD at rate 1."""

    def build(self) -> Any:
        return lambda named: torch.optim.SGD([p for _, p in named], lr=1.0)


def test_clipping_scales_the_whole_gradient_to_its_limit() -> None:
    """A gradient of (3, 4) has norm 5: clipped at 1 it is (0.6, 0.8); at 10 it stays."""
    for clip, expected in ((1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0]), (None, [-3.0, -4.0])):
        model = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
        model[0].grad, model[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
        rate = LearningRate(peak=1.0, shape="constant")
        metrics = Updater(model, TakesGradients(), rate, clip).step(1, 1)  # type: ignore[arg-type]
        assert metrics["grad_norm"] == pytest.approx(5.0)  # as it was before clipping
        assert [p.item() for p in model] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(bad: float) -> None:
    model = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stepper = updater(model, clip=1.0)
    model.weight.grad = torch.ones(2, 2)
    model.bias.grad = torch.tensor([1.0, bad])
    with pytest.raises(NonFiniteError, match=r"gradient norm of step 7 is .*not taken") as caught:
        stepper.step(7, 9)
    assert caught.value.exit_code == 4
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not stepper.optimizer.state


def test_a_loss_that_is_not_finite_names_itself_and_the_step() -> None:
    assert check_finite(1.5, "the loss", 3) == 1.5
    with pytest.raises(NonFiniteError, match="the loss of step 3 is nan"):
        check_finite(math.nan, "the loss", 3)


# --- item 25: the average -----------------------------------------------------------------


def test_the_weight_average_by_hand() -> None:
    """Fidelity item 25: 0.992 * 1 + 0.008 * 2 = 1.008; 0.992 * 1.008 + 0.008 * 4 = 1.031936."""
    model = one_weight(1.0)
    average = WeightAverage(model, decay=0.992)
    assert average.tensors()["weight"].item() == 1.0
    for value, expected in ((2.0, 1.008), (4.0, 1.031936)):
        nn.init.constant_(model.weight, value)
        average.update()
        assert average.tensors()["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0


def test_the_average_moves_by_steps_that_half_precision_would_lose() -> None:
    """Fidelity items 23 and 25: 1 + 0.008 * 1e-3 is 1 in bfloat16, and the average is float32."""
    model = one_weight(1.0).to(torch.bfloat16)
    average = WeightAverage(model, decay=0.992)
    nn.init.constant_(model.weight, 1.0078125)  # the next bfloat16
    average.update()
    assert average.tensors()["weight"].dtype == torch.float32
    assert average.tensors()["weight"].item() == pytest.approx(1 + 0.008 * 0.0078125, abs=1e-7)


def test_the_average_survives_a_checkpoint() -> None:
    model = one_weight(1.0)
    average = WeightAverage(model, decay=0.5)
    nn.init.constant_(model.weight, 3.0)
    average.update()
    fresh = WeightAverage(one_weight(0.0), decay=0.5)
    fresh.restore({n: t.clone() for n, t in average.tensors().items()}, average.numbers())
    assert fresh.tensors()["weight"].item() == 2.0


# --- item 23: half precision --------------------------------------------------------------


def test_a_bfloat16_run_keeps_float32_weights_moments_and_average(tmp_path: Path) -> None:
    """Fidelity items 23 and 25: autocast computes in bfloat16; a rate of 1e-6 still counts."""
    strategy = SingleDevice("cpu", "bfloat16")
    model: Any = load_causal(str(save_causal(tmp_path)), strategy, trained=True)
    average = WeightAverage(model, decay=0.992)
    stepper = updater(model, peak=1e-6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.tensor([[3, 4, 5, 6]])
    targets = torch.tensor([[False, True, True, True]])
    seen: list[torch.dtype] = []
    handle = model.transformer.h[0].attn.c_attn.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    with strategy.autocast():
        logprobs, _ = target_logprobs(model, tokens, targets)
    handle.remove()
    assert seen == [torch.bfloat16]
    assert logprobs.dtype == torch.float32
    (-logprobs.sum()).backward()
    stepper.step(1, 1)
    average.update()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    state = stepper.optimizer.state.values()
    assert {entry[name].dtype for entry in state for name in ("exp_avg", "exp_avg_sq")} == {
        torch.float32
    }
    assert {tensor.dtype for tensor in average.tensors().values()} == {torch.float32}
    name = "transformer.h.0.mlp.c_fc.weight"
    moved = model.get_parameter(name).detach() - before[name]
    # 1e-6 is far under bfloat16's resolution at 0.02 (6e-5); the float32 master takes it.
    assert 0 < moved.abs().max() < 1.1e-6
    assert not torch.equal(average.tensors()[name], before[name])


def test_a_frozen_model_of_a_bfloat16_run_is_held_in_bfloat16(tmp_path: Path) -> None:
    strategy = SingleDevice("cpu", "bfloat16")
    model = load_causal(str(save_causal(tmp_path)), strategy, trained=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
