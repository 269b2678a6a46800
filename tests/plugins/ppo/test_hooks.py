"""What a plugin sees and may change while a PPO run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rl import rl_config, rl_models
from support import metrics, run_stages

from fairlead.errors import RewardError
from fairlead.plugins import load_plugins

WATCHER = '''
"""Notes every lifecycle hook; adds 1 to every score."""
from fairlead import hookimpl

SEEN = []
SCORES = []

@hookimpl
def stage_started(context):
    SEEN.append(("stage_started", context.name))

@hookimpl
def shape_rewards(rollout, context):
    SEEN.append(("shape_rewards", rollout.policy_version))
    SCORES.append(rollout.scores.clone())
    return rollout.replace(scores=rollout.scores + 1)

@hookimpl
def rollout_collected(rollout, context):
    SEEN.append(("rollout_collected", rollout.policy_version))
    SCORES.append(rollout.scores.clone())

@hookimpl
def step_finished(step, metrics, context):
    SEEN.append(("step_finished", step))

@hookimpl
def checkpoint_saved(path, step, context):
    assert (path / "manifest.json").is_file()
    SEEN.append(("checkpoint_saved", step))

@hookimpl
def stage_finished(summary, context):
    assert (context.directory / "config.json").is_file()
    SEEN.append(("stage_finished", summary["steps"]))

@hookimpl
def stage_failed(error, context):
    SEEN.append(("stage_failed", type(error).__name__))
'''

DOUBLER = '''
"""Doubles every score; leaves the second rollout alone."""
from fairlead import hookimpl

@hookimpl
def shape_rewards(rollout, context):
    if rollout.policy_version == 1:
        return None
    return rollout.replace(scores=rollout.scores * 2)
'''

SPOILER = """
from fairlead import hookimpl

@hookimpl
def shape_rewards(rollout, context):
    scores = rollout.scores.clone()
    scores[1] = float("nan")
    return rollout.replace(scores=scores)
"""


def run(root: Path, *files: tuple[str, str], **changes: Any) -> Any:
    rl_models(root)
    for name, text in files:
        (root / f"{name}.py").write_text(text)
    plugins = load_plugins(extra=[str(root / f"{name}.py") for name, _ in files])
    run_stages(rl_config(root, **changes), root / "out", plugins=plugins)


def test_lifecycle_hooks_come_in_order(tmp_path: Path) -> None:
    run(tmp_path, ("watcher", WATCHER), checkpoint_every=1)
    seen = sys.modules["fairlead_plugin_watcher"].SEEN
    assert seen == [
        ("stage_started", "ppo"),
        ("shape_rewards", 0),
        ("rollout_collected", 0),
        ("step_finished", 1),
        ("checkpoint_saved", 1),
        ("shape_rewards", 1),
        ("rollout_collected", 1),
        ("step_finished", 2),
        ("checkpoint_saved", 2),
        ("stage_finished", 2),
    ]


def test_shape_rewards_chains_in_the_order_plugins_were_loaded(tmp_path: Path) -> None:
    """The reward is 0 or more w7s: doubled, then 1 added; in the second rollout 1 added alone."""
    run(tmp_path, ("doubler", DOUBLER), ("watcher", WATCHER), reward=length(tmp_path))
    before, after, second, second_after = sys.modules["fairlead_plugin_watcher"].SCORES
    assert bool((before % 2 == 0).all())  # doubled already when the second plugin sees it
    assert float(before.sum()) > 0
    assert after.tolist() == (before + 1).tolist()
    assert second_after.tolist() == (second + 1).tolist()
    rows = metrics(tmp_path / "out" / "ppo")
    assert rows[0]["objective/scores"] == pytest.approx(float(after.mean()))
    assert rows[1]["objective/scores"] == pytest.approx(float(second_after.mean()))


def length(root: Path) -> dict[str, str]:
    path = root / "length.py"
    path.write_text("def words(p, responses, m):\n    return [len(r.split()) for r in responses]\n")
    return {"name": "function", "function": f"{path}:words"}


def test_a_hook_that_leaves_a_nan_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"a shape_rewards hook left nan") as caught:
        run(tmp_path, ("watcher", WATCHER), ("spoiler", SPOILER))
    assert caught.value.exit_code == 3
    assert metrics(tmp_path / "out" / "ppo") == []
    assert sys.modules["fairlead_plugin_watcher"].SEEN[-1] == ("stage_failed", "RewardError")
