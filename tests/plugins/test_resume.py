"""A run that is stopped or killed and resumed is the run that was not, bit for bit.

Fidelity of the checkpoints of ``pretrain``, ``sft`` (with dropout, packing and the pretraining
mix) and ``rm``: 20 steps against 10, a stop, and 10 more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import STOPPER, configure, context, metrics, run_stages, save_causal, weights

from fairlead.checkpoint import CheckpointStore
from fairlead.data import DataFeed
from fairlead.errors import ConfigError, DataError, Stopped
from fairlead.plugins import Plugins, load_plugins
from fairlead.stages import read_stage, stage_finished

TEXT = [{"text": " ".join(f"w{(3 * i + j) % 20}" for j in range(9))} for i in range(12)]
TEXT_SOURCE = {"name": "inline", "records": TEXT}
NLL = {"name": "nll", "source": TEXT_SOURCE, "part": "all", "block_tokens": 8}
DEMONSTRATIONS = [
    {"prompt": f"w{i} w{i + 1}", "completion": " " + " ".join(f"w{j}" for j in range(1, 2 + i % 4))}
    for i in range(10)
]
RANKINGS = [
    {"prompt": "w1 w2", "responses": [" w3", " w4 w5", " w6"], "ranks": [0, 1, 2]},
    {"prompt": "w3", "responses": [" w5 w6", " w7"], "ranks": [0, 1]},
    {"prompt": "w5 w1", "responses": [" w2", " w8 w8 w8", " w10", " w1"], "ranks": [1, 0, 1, 2]},
    {"prompt": "w7", "responses": [" w11", " w12"], "ranks": [1, 0]},
]
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {
        "name": "pretrain",
        "model": {
            "model_type": "gpt2",
            "config": {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
            },
        },
        "tokenizer": {"vocab_size": 280},
        "source": TEXT_SOURCE,
        "steps": 20,
        "batch_size": 3,
        "block_tokens": 16,
        "evaluators": [NLL],
        "evaluate_every": 7,
    },
    "sft": {
        "name": "sft",
        "model": "BASE",
        "source": {"name": "inline", "records": DEMONSTRATIONS},
        "epochs": 8,  # of 10 demonstrations in batches of 4: 20 steps
        "batch_size": 4,
        "max_tokens": 24,
        "packing": True,
        "residual_dropout": 0.2,
        "lr": {"peak": 1e-2},
        "auxiliary": [
            # 13.6 blocks in 10 steps: a fraction is owed when the run stops.
            {"name": "ptx", "source": TEXT_SOURCE, "block_tokens": 8, "ratio": 0.34},
        ],
        "evaluators": [NLL],
    },
    "rm": {
        "name": "rm",
        "model": "BASE",
        "source": {"name": "inline", "records": RANKINGS},
        "epochs": 10,  # of 4 prompts in batches of 2: 20 steps
        "batch_size": 2,
        "lr": {"peak": 1e-2},
        "evaluate_every": 7,
    },
}

KILLER = '''
"""A plugin that ends the process where no handler can run: after a step, or in a checkpoint."""
import os, signal
import fairlead.checkpoint
from fairlead import hookimpl

WHERE, STEP = os.environ["KILL_WHERE"], int(os.environ["KILL_STEP"])

@hookimpl
def step_finished(step, metrics, context):
    if step == STEP and WHERE == "step":
        os.kill(os.getpid(), signal.SIGKILL)
    if step == STEP and WHERE == "checkpoint":
        # The next thing flushed is a file of the half-written checkpoint.
        fairlead.checkpoint._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
'''

RUN = """
import yaml
from pathlib import Path
from fairlead.plugins import load_plugins
from support import run_stages

plugins = load_plugins(extra=["killer.py"])
run_stages(yaml.safe_load(Path("run.yaml").read_text()), Path("out"), plugins=plugins)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    """Every stage run without interruption."""
    outs = {name: tmp_path_factory.mktemp(name) for name in STAGES}
    for name, out in outs.items():
        run_stages(recipe(name, base), out)
    return outs


def recipe(stage: str, base: Path, **more: Any) -> dict[str, Any]:
    settings = {**STAGES[stage], **more}
    if settings["model"] == "BASE":
        settings["model"] = str(base)
    return {"heldout": 0.0, "threads": 1, "stages": {stage: settings}}


def stopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> Plugins:
    """Plugins that send this process a SIGTERM after one step."""
    path = tmp_path / "stopper.py"
    path.write_text(STOPPER)
    monkeypatch.setenv("STOP_STAGE", stage)
    monkeypatch.setenv("STOP_STEP", str(step))
    return load_plugins(extra=[str(path)])


def measured(directory: Path) -> list[dict[str, float]]:
    """The metrics without what the clock says."""
    clock = ("time", "seconds_per_step")
    return [{k: v for k, v in line.items() if k not in clock} for line in metrics(directory)]


def summary(directory: Path) -> Any:
    return read_stage(directory)["summary"]


def assert_same(resumed: Path, whole: Path) -> None:
    mine, theirs = weights(resumed), weights(whole)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert measured(resumed) == measured(whole)
    steps = [line["step"] for line in measured(resumed) if line["step"]]
    assert steps == list(range(1, 21))
    assert summary(resumed) == summary(whole)
    assert stage_finished(resumed)


# --- stopped by a signal ------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_twenty_steps_equal_ten_a_stop_and_ten_more(
    stage: str, base: Path, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = recipe(stage, base), tmp_path / "out"
    with pytest.raises(Stopped, match=r"SIGTERM after step 10 of 20.*--resume") as caught:
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, stage, 10))
    assert caught.value.exit_code == 5
    assert read_stage(out / stage)["status"] == "stopped"
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert [line["step"] for line in metrics(out / stage) if line["step"]] == list(range(1, 11))
    torch.manual_seed(12345)  # a resume owes nothing to the global generator
    run_stages(raw, out, resume=True)
    assert_same(out / stage, whole[stage] / stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_at_the_last_step_loses_nothing(
    stage: str, base: Path, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is left to take; the summary still tells what the last one measured."""
    raw, out = recipe(stage, base), tmp_path / "out"
    with pytest.raises(Stopped):
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, stage, 20))
    run_stages(raw, out, resume=True)
    assert_same(out / stage, whole[stage] / stage)


def test_stopping_twice_is_as_good_as_once(
    base: Path, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = recipe("sft", base), tmp_path / "out"
    for step, resume in ((3, False), (11, True)):
        with pytest.raises(Stopped, match=f"after step {step} of 20"):
            plugins = stopper(tmp_path, monkeypatch, "sft", step)
            run_stages(raw, out, resume=resume, plugins=plugins)
    run_stages(raw, out, resume=True)
    assert_same(out / "sft", whole["sft"] / "sft")


def test_the_best_epoch_survives_a_resume(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is selected here is an epoch from before the stop."""
    raw = recipe("sft", base, select_by="eval/nll")
    run_stages(raw, tmp_path / "whole")
    best = summary(tmp_path / "whole" / "sft")["selected_step"]
    assert best < 20
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, "sft", best + 1))
    run_stages(raw, out, resume=True)
    assert_same(out / "sft", tmp_path / "whole" / "sft")


# --- killed -------------------------------------------------------------------------------


@pytest.mark.slow  # a process of its own, which has to import everything
@pytest.mark.parametrize(
    ("stage", "where", "step", "resumes_after"),
    [("pretrain", "step", 13, 10), ("sft", "step", 13, 10), ("rm", "checkpoint", 10, 5)],
)
def test_a_kill_loses_no_more_than_the_steps_since_a_checkpoint(
    stage: str,
    where: str,
    step: int,
    resumes_after: int,
    base: Path,
    whole: dict[str, Path],
    tmp_path: Path,
) -> None:
    """kill -9 between two checkpoints, or while one is being written: that one is as if it
    had never been.
    """
    raw, out = recipe(stage, base, checkpoint_every=5), tmp_path / "out"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "killer.py").write_text(KILLER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KILL_WHERE": where,
        "KILL_STEP": str(step),
    }
    died = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not stage_finished(out / stage)
    newest = CheckpointStore(out / stage / "checkpoints").newest()
    assert newest is not None
    assert newest.name == f"step-{resumes_after:08d}"
    run_stages(raw, out, resume=True)
    assert_same(out / stage, whole[stage] / stage)


# --- refused ------------------------------------------------------------------------------


def test_a_stage_that_is_there_already_is_refused(base: Path, tmp_path: Path) -> None:
    raw = recipe("rm", base, epochs=1)
    run_stages(raw, tmp_path)
    before = weights(tmp_path / "rm")
    with pytest.raises(ConfigError, match=r"holds a finished stage already\. Add --resume"):
        run_stages(raw, tmp_path)
    assert all(torch.equal(weights(tmp_path / "rm")[n], t) for n, t in before.items())


def test_a_finished_stage_is_skipped_by_a_resume(base: Path, tmp_path: Path) -> None:
    raw = recipe("rm", base, epochs=1)
    first = run_stages(raw, tmp_path)
    written = (tmp_path / "rm" / "model.safetensors").stat().st_mtime_ns
    assert run_stages(raw, tmp_path, resume=True) == first
    assert (tmp_path / "rm" / "model.safetensors").stat().st_mtime_ns == written


def test_a_resume_with_another_configuration_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = recipe("rm", base), tmp_path / "out"
    with pytest.raises(Stopped):
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, "rm", 10))
    changed = ["rm.lr.peak=0.5", "seed=3"]
    with pytest.raises(ConfigError) as caught:
        run_stages(raw, out, overrides=changed, resume=True)
    assert "stages.rm.lr.peak was 0.01 and is 0.5" in str(caught.value)
    assert "seed was 0 and is 3" in str(caught.value)


def test_a_resume_of_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        run_stages(recipe("rm", base), tmp_path / "out", resume=True)


# --- damaged ------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "no manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str,
    base: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw, out = recipe("rm", base, checkpoint_every=4), tmp_path / "out"
    with pytest.raises(Stopped):
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, "rm", 10))
    store = CheckpointStore(out / "rm" / "checkpoints")
    assert [path.name for path in store._all()] == ["step-00000008", "step-00000010"]
    file = store._all()[-1] / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "gone":
        file.unlink()
    else:
        (file.parent / "manifest.json").unlink()
    newest = store.newest()
    assert newest is not None
    assert newest.name == "step-00000008"
    run_stages(raw, out, resume=True)
    assert_same(out / "rm", whole["rm"] / "rm")


def test_without_a_usable_checkpoint_the_stage_begins_anew(
    base: Path, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = recipe("rm", base), tmp_path / "out"
    with pytest.raises(Stopped):
        run_stages(raw, out, plugins=stopper(tmp_path, monkeypatch, "rm", 10))
    (path,) = CheckpointStore(out / "rm" / "checkpoints")._all()
    (path / "state.json").write_text("{}")
    run_stages(raw, out, resume=True)
    assert_same(out / "rm", whole["rm"] / "rm")


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    class Count:
        def tensors(self) -> dict[str, torch.Tensor]:
            return {"n": torch.ones(2)}

        def numbers(self) -> dict[str, Any]:
            return {"n": 0.1}

        def restore(self, tensors: Any, numbers: Any) -> None:
            self.restored = (tensors["n"].tolist(), numbers["n"])

    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, {"a": Count()})
    assert [path.name for path in store._all()] == ["step-00000002", "step-00000003"]
    part = Count()
    assert store.load({"a": part}) == 3
    assert part.restored == ([1.0, 1.0], 0.1)
    with pytest.raises(DataError, match=r"holds \['a'\]; this configuration needs \['a', 'b'\]"):
        store.load({"a": part, "b": Count()})


def test_the_order_of_data_owes_nothing_to_the_batch_size(base: Path, tmp_path: Path) -> None:
    """Item c of the stream is a function of (seed, c); a cursor is all a resume needs."""
    ctx = context(tmp_path)
    one, other, resumed = (DataFeed(7, ctx.seed("order")) for _ in range(3))
    stream = one.take(30)
    assert [i for _ in range(10) for i in other.take(3)] == stream
    resumed.restore({"cursor": 11, "size": 7})
    assert resumed.take(19) == stream[11:]
    for epoch in range(4):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert configure(recipe("rm", base))[0].seed == 0
