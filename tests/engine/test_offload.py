"""What is off the device between its phases: moves are recorded, and what is away is NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import crew, rl_config, rl_models
from support import (
    STOPPER,
    configure,
    metrics,
    minimal_stage,
    run_stages,
    save_scalar,
    weights,
)
from torch import Tensor, nn
from updating import collected

from fairlead import offload, runner
from fairlead.errors import Stopped
from fairlead.memory import memory_estimate
from fairlead.offload import take_off, visiting
from fairlead.plugins import load_plugins
from fairlead.strategy import SingleDevice

GPU = torch.device("cuda")
"""Nothing is ever put there: the copies are the test's own."""


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The device type of each copy that was made, in order."""
    made: list[str] = []

    def copy(tensor: Tensor, device: torch.device) -> Tensor:
        made.append(device.type)
        return tensor.clone()

    monkeypatch.setattr(offload, "_copy", copy)
    return made


def addresses(model: nn.Module) -> list[int]:
    return [one.data_ptr() for one in [*model.parameters(), *model.buffers()]]


def layer() -> nn.Module:
    """A weight that two modules share, a bias and a buffer: three tensors."""
    made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)).requires_grad_(False)
    made[1].weight = made[0].weight
    made.register_buffer("table", torch.ones(2))
    return made


def test_a_frozen_model_is_copied_there_and_not_back(copies: list[str]) -> None:
    model, rows = layer(), torch.randn(3, 4)
    expected = model(rows)
    take_off(model)
    assert copies == ["cpu"] * 3
    home = addresses(model)
    for _ in range(2):
        copies.clear()
        with visiting(GPU, (model,)):
            assert not set(addresses(model)) & set(home)
            assert torch.equal(model(rows), expected)
        assert copies == ["cuda"] * 3
        assert addresses(model) == home


def test_it_goes_home_after_an_error_too(
    copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = layer()
    home = addresses(model)
    with pytest.raises(ZeroDivisionError), visiting(GPU, (model,)):
        raise ZeroDivisionError
    assert addresses(model) == home

    def full(tensor: Tensor, device: torch.device) -> Tensor:
        if tensor.dim() == 1:
            raise torch.OutOfMemoryError("full")
        return tensor.clone()

    monkeypatch.setattr(offload, "_copy", full)
    with pytest.raises(torch.OutOfMemoryError), visiting(GPU, (model,)):
        pass
    assert addresses(model) == home


def test_moments_go_both_ways_and_train_alike(copies: list[str]) -> None:
    torch.manual_seed(0)
    found = []
    for away in (False, True):
        weight = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        for step in range(3):
            weight.grad = weight.detach() ** 2 + step
            if away:
                copies.clear()
                with visiting(GPU, (optimizer,)):
                    optimizer.step()
                # The first step makes them there. The count of steps stays where it is.
                assert copies == (["cuda"] * 2 if step else []) + ["cpu"] * 2
            else:
                optimizer.step()
        found.append(weight.detach())
    assert torch.equal(found[0], found[1])


def test_on_a_cpu_nothing_is_moved(copies: list[str]) -> None:
    strategy, model = SingleDevice("cpu", offload=True), layer()
    home = addresses(model)
    strategy.set_aside(model)
    with strategy.at_hand(model):
        assert addresses(model) == home
    assert copies == []


def test_on_a_gpu_only_what_the_run_asks_for_is_moved(copies: list[str]) -> None:
    strategy, model = SingleDevice("cpu"), layer()
    strategy.set_aside(model)
    assert copies == []
    strategy.offload = True  # as on a GPU
    strategy.set_aside(model)
    with strategy.at_hand(model):
        pass
    assert copies == ["cpu"] * 6


# --- the RL stage --------------------------------------------------------------------------


class Recorded(SingleDevice):
    """A GPU's part is played by NaN: what was set aside has no weights until it is at hand."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.moves: list[str] = []
        self.names: dict[int, str] = {}
        self.kept: dict[int, list[Tensor]] = {}

    def set_aside(self, *visitors: Any) -> None:
        for one in visitors:
            self.names[id(one)] = name = f"{type(one).__name__}{len(self.names)}"
            self.moves.append(f"aside {name}")
            self._hide(one)

    @contextmanager
    def at_hand(self, *visitors: Any) -> Iterator[None]:
        known = [one for one in visitors if id(one) in self.names]
        for one in known:
            self.moves.append(f"here {self.names[id(one)]}")
            for tensor, real in zip(offload._tensors(one), self.kept[id(one)], strict=True):
                tensor.data = real
        yield
        for one in known:
            self.moves.append(f"gone {self.names[id(one)]}")
            self._hide(one)

    def _hide(self, one: Any) -> None:
        self.kept[id(one)] = [tensor.data for tensor in offload._tensors(one)]
        for tensor in offload._tensors(one):
            tensor.data = torch.full_like(tensor.data, torch.nan)


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    monkeypatch.setattr(runner, "_strategy", lambda config: made)
    return made


def reward(root: Path, kind: str) -> dict[str, Any]:
    save_scalar(root / "reward", seed=5)
    return {"name": kind, "model": str(root / "reward")}


@pytest.mark.parametrize("kind", ["reward_model", "classifier"])
def test_reference_reward_and_moments_are_there_for_their_phases_alone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    raw = rl_config(rl_models(tmp_path), reward=reward(tmp_path, kind), iterations=2)
    raw["stages"]["ppo"]["algorithm"] = {"name": "ppo", "kl_estimator": "full"}
    run_stages(raw, tmp_path / "plain")
    recorded: Recorded = request.getfixturevalue("strategy")
    run_stages(raw, tmp_path / "away")
    found, expected = (metrics(tmp_path / way / "ppo") for way in ("away", "plain"))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("objective/kl", "objective/scores", "loss/policy_avg", "value/grad_norm"):
            assert ours[name] == theirs[name]
    trained = (weights(tmp_path / way / "ppo") for way in ("away", "plain"))
    torch.testing.assert_close(*trained, atol=0, rtol=0)
    reference, judge = "GPT2LMHeadModel0", recorded.moves[1].removeprefix("aside ")
    visits = [reference, reference, judge]  # log-probs, the whole distribution, scores
    iteration = [f"{way} {name}" for name in visits for way in ("here", "gone")]
    update = [f"{way} AdamW{number}" for way in ("here", "gone") for number in (2, 3)]
    asides = [f"aside {name}" for name in (reference, judge, "AdamW2", "AdamW3")]
    assert recorded.moves == [*asides, *iteration, *update, *iteration, *update]


def test_a_resumed_runs_moments_are_away_until_its_first_update(
    tmp_path: Path,
    plugin_file: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    raw = rl_config(rl_models(tmp_path), iterations=2)
    monkeypatch.setenv("STOP_STAGE", "ppo")
    monkeypatch.setenv("STOP_STEP", "1")
    plugins = load_plugins([plugin_file("stopper", STOPPER)])
    with pytest.raises(Stopped):
        run_stages(raw, tmp_path / "run", plugins=plugins)
    monkeypatch.setenv("STOP_STEP", "0")
    sizes: list[int] = []
    aside = Recorded.set_aside

    def spy(self: Recorded, *visitors: Any) -> None:
        aside(self, *visitors)
        sizes.append(sum(len(self.kept[id(one)]) for one in visitors))

    monkeypatch.setattr(Recorded, "set_aside", spy)
    request.getfixturevalue("strategy")
    run_stages(raw, tmp_path / "run", plugins=plugins, resume=True)
    policy, value = (weights(tmp_path / name) for name in ("policy", "value"))
    # Two for each weight. Those of the value model's bias are single numbers, which stay.
    assert sizes[-1] == 2 * (len(policy) + len(value))


def test_a_model_that_is_only_visited_scores_what_it_scores(tmp_path: Path) -> None:
    """Through `collect` alone: no phase runs a model that is away."""
    made, cfg, _ = crew(rl_models(tmp_path))
    expected = collected(made, cfg)
    reference: Any = made.actors.reference
    recorded = Recorded()
    recorded.set_aside(reference)
    object.__setattr__(made.actors, "strategy", recorded)
    found = collected(made, cfg)
    assert torch.equal(found.ref_logprobs, expected.ref_logprobs)
    assert next(reference.parameters()).isnan().all()


def test_the_configuration_reaches_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def spy(*inputs: Any, **more: Any) -> SingleDevice:
        asked.append(more)
        return SingleDevice(*inputs, **more)

    monkeypatch.setattr(runner, "SingleDevice", spy)
    raw = {"device": "cpu", "stages": {"pretrain": minimal_stage()}}
    for given in (False, True):
        runner._strategy(configure({**raw, "offload": given})[0])
    assert [one["offload"] for one in asked] == [False, True]


# --- the estimate --------------------------------------------------------------------------


def test_the_estimate_counts_visitors_one_at_a_time() -> None:
    """16 bytes a parameter while it is trained, 4 while a visitor is there."""
    giga = 2**30
    models = [("policy", giga, "trained"), ("reference", giga, "reference"), ("r", giga, "frozen")]

    def together(device: str, **more: Any) -> float:
        parts = memory_estimate(models, (0, 0), "bfloat16", device, **more)
        return parts["together, without activations"]

    assert together("cuda") == 16 + 4 + 2
    assert together("cpu", offload=True) == 16 + 4 + 2
    assert together("cuda", offload=True) == 16
    models.append(("large", 7 * giga, "frozen"))
    assert together("cuda", offload=True) == 4 + 14
