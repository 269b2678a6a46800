"""Whose weights there are: the policy's, their average, the value model's own, no adapter's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import crew, rl_config, rl_models
from support import run_stages, weights
from torch import nn
from updating import collected, one_iteration

from fairlead.errors import ConfigError
from fairlead.models import load_causal
from fairlead.optim import WeightAverage
from fairlead.strategy import SingleDevice
from fairlead_plugins.ppo.export import save_average
from fairlead_plugins.ppo.update import update

# --- the average ------------------------------------------------------------------------


def test_weight_average_by_hand() -> None:
    """Fidelity item 25: 0.992 * 1 + 0.008 * 3 = 1.016; 0.992 * 1.016 + 0.008 * 3 = 1.031872."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = WeightAverage(model, 0.992)
        model.weight.fill_(3.0)
    for expected in (1.016, 1.031872):
        average.update()
        assert average.average["weight"].dtype == torch.float32
        assert float(average.average["weight"]) == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 3.0


@pytest.mark.parametrize(("every", "updates"), [("step", 4), ("iteration", 1)])
def test_the_average_follows_steps_or_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, updates: int
) -> None:
    """Fidelity item 25: 2 minibatches and 2 epochs are 4 steps; the paper states no cadence."""
    calls: list[int] = []
    monkeypatch.setattr(WeightAverage, "update", lambda self: calls.append(1))
    rl_models(tmp_path)
    one_iteration(tmp_path, weight_average={"every": every}, epochs=2)
    assert len(calls) == updates


def test_the_average_is_saved_under_ema_and_the_raw_weights_are_restored(tmp_path: Path) -> None:
    """Fidelity item 25."""
    rl_models(tmp_path)
    made, _, _ = crew(tmp_path)
    learner = made.learner
    assert learner.average is not None
    assert learner.average.decay == 0.992
    raw = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
    for tensor in learner.average.average.values():
        tensor.add_(1.0)
    save_average(learner.policy, learner.average, made.actors.tokenizer, tmp_path / "out")
    assert all(torch.equal(p, raw[name]) for name, p in learner.policy.named_parameters())
    saved: Any = load_causal(str(tmp_path / "out" / "ema"), SingleDevice("cpu"), trained=False)
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, raw[name] + 1.0), name


def test_a_run_leaves_raw_and_averaged_weights_and_says_which_it_measured(tmp_path: Path) -> None:
    """Fidelity item 25: of the last weights the average holds a part."""
    rl_models(tmp_path)
    summary = run_stages(rl_config(tmp_path), tmp_path / "out")["ppo"]
    assert summary["weights"] == "raw"
    raw, ema = weights(tmp_path / "out" / "ppo"), weights(tmp_path / "out" / "ppo" / "ema")
    start = weights(tmp_path / "policy")
    assert raw.keys() == ema.keys()
    for name in raw:
        if not torch.equal(raw[name], start[name]):
            # four steps: the average is still nearer to the start
            assert (ema[name] - start[name]).norm() < 0.1 * (raw[name] - start[name]).norm()
            assert not torch.equal(ema[name], start[name])


# --- the value model --------------------------------------------------------------------


def test_the_value_model_starts_as_the_reward_model_and_shares_nothing(tmp_path: Path) -> None:
    """Fidelity item 26; its bias comes with it (item 7)."""
    rl_models(tmp_path)
    path = tmp_path / "value" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fairlead_bias": 0.75}))
    scorer = {"name": "reward_model", "model": str(tmp_path / "value")}
    made, _, _ = crew(tmp_path, reward=scorer)
    learner, rewards = made.learner, made.actors.reward.model  # type: ignore[attr-defined]
    assert learner.value is not None
    assert learner.value_updater is not None
    assert learner.value.bias.item() == 0.75
    others = [learner.policy, made.actors.reference, rewards]
    mine = {p.data_ptr() for p in learner.value.parameters()}
    for other in others:
        assert mine.isdisjoint(p.data_ptr() for p in other.parameters())  # type: ignore[union-attr]
    for (name, own), (_, theirs) in zip(
        learner.value.named_parameters(), rewards.named_parameters(), strict=True
    ):
        assert torch.equal(own, theirs), name
        assert own.requires_grad and not theirs.requires_grad
    held = {id(p) for p in learner.value_updater.parameters}
    assert held == {id(p) for p in learner.value.parameters()}
    assert held.isdisjoint(id(p) for p in learner.policy_updater.parameters)


def test_the_value_model_has_its_own_optimizer_and_learning_rate(tmp_path: Path) -> None:
    """Fidelity item 26."""
    rl_models(tmp_path)
    made, cfg, _ = crew(
        tmp_path, lr={"peak": 1e-3, "warmup": 0}, value_lr={"peak": 5e-3, "warmup": 0}
    )
    learner = made.learner
    assert learner.value_updater is not None
    assert learner.value_updater.optimizer is not learner.policy_updater.optimizer
    rollout = collected(made, cfg)
    found = update(learner, rollout, learner.algorithm.assign_credit(rollout), 1, seed=2)
    assert (found["lr"], found["value/lr"]) == (1e-3, 5e-3)


def test_scores_of_a_reward_model_do_not_follow_the_value_model(tmp_path: Path) -> None:
    """Fidelity item 26: training the value model leaves the reward model as it was."""
    rl_models(tmp_path)
    scorer = {"name": "reward_model", "model": str(tmp_path / "value")}
    made, cfg, _ = crew(tmp_path, reward=scorer)
    before = collected(made, cfg)
    update(made.learner, before, made.learner.algorithm.assign_credit(before), 1, seed=2)
    frozen = {name: p.clone() for name, p in made.actors.reward.model.named_parameters()}  # type: ignore[attr-defined]
    for name, tensor in weights(tmp_path / "value").items():
        assert torch.equal(frozen[f"model.{name}"], tensor)


# --- adapters ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["policy", "reference", "value"])
@pytest.mark.parametrize("whole", [False, True])
def test_an_unmerged_adapter_is_refused(tmp_path: Path, role: str, whole: bool) -> None:
    """Fidelity item 30: alone, and beside a whole model, onto which peft would put it."""
    rl_models(tmp_path)
    adapter = tmp_path / "adapter"
    shutil.copytree(tmp_path / role, adapter)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not whole:
        (adapter / "config.json").unlink()
        (adapter / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"PEFT adapter.*Merge it into its base first"):
        crew(tmp_path, **{role: str(adapter)})
