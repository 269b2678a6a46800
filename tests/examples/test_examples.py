"""The example plugins run as a stranger's would: from a file, through the hooks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import hand_rollout, rl_config, rl_models
from support import ROOT, metrics, run_stages, weights

from fairlead.plugins import load_plugins

EXAMPLES = ROOT / "examples" / "plugins"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rloo_advantages_by_hand() -> None:
    """Two prompts, three samples each, beta 0.5; the KL of the first response is 2 nats.

    Returns 4 - 1 = 3, 1, 2 and 5, 5, 8. The others' means 1.5, 2.5, 2 and 6.5, 6.5, 5, so the
    advantages 1.5, -1.5, 0 and -1.5, -1.5, 3.
    """
    example = load("rloo")
    algorithm = example.Rloo(example.RlooConfig(samples_per_prompt=3, kl_coefficient=0.5))
    rollout = hand_rollout(
        [2, 1, 1, 1, 2, 1],
        [4.0, 1.0, 2.0, 5.0, 5.0, 8.0],
        logprobs=[[-1.0, -1.0]],
        ref_logprobs=[[-2.0, -2.0]],
        samples_per_prompt=3,
    )
    credit = algorithm.assign_credit(rollout)
    expected = [[1.5, 1.5], [-1.5, 0], [0, 0], [-1.5, 0], [-1.5, -1.5], [3, 0]]
    torch.testing.assert_close(credit.advantages, torch.tensor(expected))
    # The mean over the batch of beta * KL: 0.5 * 2 / 6.
    assert credit.metrics["objective/non_score_reward"] == pytest.approx(-1 / 6)


def test_the_examples_run_together(tmp_path: Path) -> None:
    """Two iterations without a value model, with another reward."""
    rl_models(tmp_path)
    names = ("rloo", "length_reward")
    plugins = load_plugins(extra=[str(EXAMPLES / f"{name}.py") for name in names])
    raw = rl_config(
        tmp_path,
        value=None,
        algorithm={"name": "rloo", "samples_per_prompt": 2},
        reward={"name": "length", "words": 3},
    )
    summary = run_stages(raw, tmp_path / "out", plugins=plugins)["ppo"]
    assert summary["episodes"] == 2 * 8 * 2
    rows = metrics(tmp_path / "out" / "ppo")
    assert len(rows) == 2
    assert {"scores/words", "objective/non_score_reward"} <= set(rows[0])
    assert not any("value" in name for name in rows[0])
    start, end = weights(tmp_path / "policy"), weights(tmp_path / "out" / "ppo")
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_rloo_learns_the_wanted_length(tmp_path: Path) -> None:
    """Its mean score rises over 15 iterations, without a critic."""
    rl_models(tmp_path)
    names = ("rloo", "length_reward")
    plugins = load_plugins(extra=[str(EXAMPLES / f"{name}.py") for name in names])
    raw = rl_config(
        tmp_path,
        value=None,
        algorithm={"name": "rloo", "samples_per_prompt": 4},
        reward={"name": "length", "words": 2},
        rollout={"max_new_tokens": 8},
        iterations=15,
        minibatch_size=16,
    )
    run_stages(raw, tmp_path / "out", plugins=plugins)
    scores = [row["objective/scores"] for row in metrics(tmp_path / "out" / "ppo")]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.1
