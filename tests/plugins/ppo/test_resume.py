"""The RL stage stopped and taken up again, and what is left when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import PTX, rl_config, rl_models
from safetensors.torch import load_file
from support import STOPPER, metrics, run_stages, weights

from fairlead.errors import FairleadError, NonFiniteError, RewardError, Stopped
from fairlead.plugins import Plugins, load_plugins

KEEPER = '''
"""Copies every checkpoint away, since a finished stage removes its own."""
import os, shutil
from fairlead import hookimpl

@hookimpl
def checkpoint_saved(path, step, context):
    shutil.copytree(path, os.path.join(os.environ["KEEP"], path.name), dirs_exist_ok=True)
'''

FAULTY = '''
"""A policy loss that is NaN from the third iteration on, while BROKEN is set."""
import os
from dataclasses import replace
from fairlead import hookimpl
from fairlead_plugins.ppo.losses import ClippedPolicyLoss

SEEN = []

class Faulty(ClippedPolicyLoss):
    def __call__(self, batch):
        term = super().__call__(batch)
        broken = os.environ.get("BROKEN") and len(SEEN) >= 3
        return replace(term, total=term.total * float("nan")) if broken else term

@hookimpl
def register_losses(register):
    register("policy/faulty", Faulty)

@hookimpl
def rollout_collected(rollout, context):
    SEEN.append(1)
'''

FAULTY_COUNT = """
import os
CALLS = []

def count(prompts, responses, metadata):
    CALLS.append(1)
    wrong = os.environ.get("BROKEN") and len(CALLS) >= 3
    return [float("nan") if wrong else len(set(r.split())) for r in responses]
"""


def everything(root: Path) -> dict[str, Any]:
    """A stage with all that has a state: ptx, adaptive KL, average, evaluators."""
    evaluators = [
        {
            "name": "reward",
            "prompts": {"name": "inline", "records": [{"prompt": f"w{i}"} for i in range(6)]},
            "part": "all",
            "reward": {"name": "reward_model", "model": str(root / "value")},
            "max_new_tokens": 4,
        },
        {"name": "nll", "source": PTX["source"], "part": "all", "block_tokens": 8},
    ]
    return rl_config(
        root,
        iterations=20,
        batch_size=6,  # of 8 prompts, so that epochs end inside a batch
        auxiliary=[{**PTX, "ratio": 0.35}],
        algorithm={"name": "ppo", "adaptive_kl": {"target": 0.5, "horizon": 60}},
        weight_average={"every": "step"},
        evaluators=evaluators,
        evaluate_every=4,
        checkpoint_every=15,
        lr={"peak": 1e-2, "warmup": 12},
    )


def comparable(stage: Path) -> list[dict[str, float]]:
    """The metrics without the clock."""
    clock = ("time", "eps", "seconds_per_iteration")
    return [
        {k: v for k, v in row.items() if k not in clock and not k.startswith(("time/", "memory/"))}
        for row in metrics(stage)
    ]


def assert_same_files(one: Path, other: Path) -> None:
    first, second = (sorted(p.name for p in path.iterdir()) for path in (one, other))
    assert first == second
    for name in first:
        if name.endswith(".safetensors"):
            tensors, others = load_file(one / name), load_file(other / name)
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensors[key], others[key]) for key in tensors), name
    assert json.loads((one / "state.json").read_text()) == json.loads(
        (other / "state.json").read_text()
    )


def test_twenty_iterations_are_ten_a_stop_and_ten_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN, Checkpoints: bit for bit, by a real SIGTERM; exit code 5."""
    rl_models(tmp_path)
    for name, text in (("stopper", STOPPER), ("keeper", KEEPER)):
        (tmp_path / f"{name}.py").write_text(text)
    files = [str(tmp_path / f"{name}.py") for name in ("stopper", "keeper")]
    monkeypatch.setenv("STOP_STAGE", "ppo")

    def start(out: str, stop: int, resume: bool = False) -> dict[str, Any]:
        monkeypatch.setenv("STOP_STEP", str(stop))
        monkeypatch.setenv("KEEP", str(tmp_path / f"kept-{out}"))
        torch.manual_seed(stop)  # the global generator has no part in a run
        return run_stages(
            everything(tmp_path), tmp_path / out, resume=resume, plugins=load_plugins(extra=files)
        )

    whole = start("whole", stop=0)
    with pytest.raises(Stopped, match="SIGTERM after iteration 10 of 20") as stopped:
        start("parts", stop=10)
    assert stopped.value.exit_code == 5
    checkpoints = tmp_path / "parts" / "ppo" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000010"]
    resumed = start("parts", stop=0, resume=True)

    assert resumed["ppo"] == whole["ppo"]
    one, other = tmp_path / "whole" / "ppo", tmp_path / "parts" / "ppo"
    for directory in ("", "ema"):
        first, second = weights(one / directory), weights(other / directory)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert comparable(one) == comparable(other)
    assert [row["step"] for row in metrics(other)] == list(range(21))
    assert "eval/reward_gain" in metrics(other)[-1]
    # the checkpoint after iteration 15 holds optimizers, value model, beta and cursors
    assert_same_files(*(tmp_path / f"kept-{out}" / "step-00000015" for out in ("whole", "parts")))
    state = json.loads((tmp_path / "kept-whole" / "step-00000015" / "state.json").read_text())
    assert state["parts"]["algorithm"]["beta"] != 0.02
    assert 0 < state["parts"]["auxiliary0"]["owed"] < 1
    assert not checkpoints.exists()


@pytest.mark.parametrize(
    ("fault", "error", "code"), [("loss", NonFiniteError, 4), ("reward", RewardError, 3)]
)
def test_a_run_that_meets_a_nan_keeps_its_checkpoint_and_goes_on_once_mended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    error: type[FairleadError],
    code: int,
) -> None:
    rl_models(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTY)
    if fault == "reward":
        (tmp_path / "count.py").write_text(FAULTY_COUNT)
    raw = rl_config(
        tmp_path,
        iterations=4,
        checkpoint_every=1,
        policy_loss="faulty" if fault == "loss" else "clipped",
    )

    def plugins() -> Plugins:
        return load_plugins(extra=[str(tmp_path / "faulty.py")])

    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(error) as caught:
        run_stages(raw, tmp_path / "out", plugins=plugins())
    assert caught.value.exit_code == code
    stage = tmp_path / "out" / "ppo"
    assert ("the policy loss of step 3 is nan" if fault == "loss" else "'w") in str(caught.value)
    assert sorted(p.name for p in (stage / "checkpoints").iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]
    assert json.loads((stage / "stage.json").read_text())["status"] == "failed"
    monkeypatch.delenv("BROKEN")
    run_stages(raw, tmp_path / "out", resume=True, plugins=plugins())
    run_stages(raw, tmp_path / "straight", plugins=plugins())
    one, other = weights(stage), weights(tmp_path / "straight" / "ppo")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert comparable(stage) == comparable(tmp_path / "straight" / "ppo")
