"""Bad input through the real command and the real plugins: message, exit code, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import recipe, run_stages

Run = Callable[..., Any]
GOOD = {"prompt": "the sky is", "chosen": " blue .", "rejected": " loud ."}
BAD_LINES = {
    "a broken line": ('{"prompt": "a', "broken JSON"),
    "a record without its field": (json.dumps({"prompt": "a", "chosen": " b"}), "'rejected'"),
    "an empty response": (json.dumps({**GOOD, "rejected": "  "}), "empty"),
    "chosen equal to rejected": (json.dumps({**GOOD, "rejected": " blue ."}), "rejected"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run up to its reward model."""
    out = tmp_path_factory.mktemp("trained") / "run"
    short = ("pretrain.steps=2", "sft.epochs=1", "rm.epochs=1")
    run_stages(recipe("tiny"), out, overrides=short, only=["pretrain", "sft", "rm"])
    return out


@pytest.mark.parametrize("fault", BAD_LINES)
def test_a_bad_record_names_its_line_and_can_be_skipped(
    fault: str, trained: Path, tmp_path: Path, fairlead: Run
) -> None:
    line, said = BAD_LINES[fault]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join([json.dumps(GOOD), line] + [json.dumps(GOOD)] * 6) + "\n")
    asked = ["rm", "--recipe", "tiny", f"rm.model={trained / 'sft'}", "heldout=0", "rm.epochs=1"]
    source = f"rm.source={{name: jsonl, path: {data}}}"
    done = fairlead(*asked, source, "--out", tmp_path / "run")
    assert done.code == 3
    assert f"{data}:2" in done.err and said in done.err and "skip" in done.err
    assert not (tmp_path / "run/rm/metrics.jsonl").exists()
    skipping = f"rm.source={{name: jsonl, path: {data}, skip: 1}}"
    done = fairlead(*asked, skipping, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "left out 1 bad record(s) of at most 1" in done.err


FAULTS = {
    "unknown key": (["ppo.iteratons=3"], 2, "did you mean 'iterations'"),
    "missing file": (["ppo.prompts={name: jsonl, path: nope.jsonl}"], 3, "nope.jsonl"),
    "no room for a prompt": (["ppo.rollout.max_new_tokens=63"], 3, "context"),
    "not a model directory": (["ppo.policy=EMPTY"], 2, "is not a model directory"),
    "no such directory": (["ppo.policy=./nodir"], 2, "there is no directory './nodir'"),
    "a language model as reward": (
        ["ppo.reward={name: reward_model, model: stage:sft}"],
        2,
        "is not a reward model",
    ),
    "a reward model as policy": (["ppo.policy=stage:rm"], 2, "not a language model"),
    "another vocabulary": (
        ["ppo.reward={name: reward_model, model: OTHER}", "ppo.value=OTHER"],
        2,
        "does not share the policy's vocabulary",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_configuration_costs_nothing(
    fault: str, trained: Path, tmp_path: Path, fairlead: Run
) -> None:
    from support import copy_finished, save_scalar

    overrides, code, said = FAULTS[fault]
    (tmp_path / "empty").mkdir()
    other = save_scalar(tmp_path / "other")
    out = tmp_path / "run"
    copy_finished(trained, out, ["pretrain", "sft", "rm"])
    given = [
        o.replace("EMPTY", str(tmp_path / "empty")).replace("OTHER", str(other)) for o in overrides
    ]
    done = fairlead("ppo", "--recipe", "tiny", *given, "--out", out)
    assert done.code == code, done.err
    assert said in done.err
    assert not (out / "ppo/metrics.jsonl").exists()
    # What was there before is still whole: the same run goes on without the fault.
    done = fairlead("ppo", "--recipe", "tiny", "ppo.iterations=1", "--out", out)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("", "--out is empty; give a directory"),
        ("FILE", "FILE is a file; give a directory"),
        ("FILE/inside", "FILE is a file; give a directory"),
        ("LOCKED/run", "you may not write to LOCKED; give a directory"),
    ],
)
@pytest.mark.parametrize("command", [["pipeline", "--recipe", "tiny"], ["demo"]])
def test_an_out_that_nothing_can_be_written_to_is_refused_before_any_work(
    command: list[str],
    out: str,
    said: str,
    tmp_path: Path,
    fairlead: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("no directory")
    Path("LOCKED").mkdir()
    may = os.access
    # Whoever runs the tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "LOCKED" and may(path, mode))
    refused = fairlead(*command, "--out", out)
    assert refused.code == 2 and said in refused.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["FILE", "LOCKED"]
