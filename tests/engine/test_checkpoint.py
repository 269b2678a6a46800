"""Checkpoints: whatever is killed or damaged, the newest valid one is taken, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairlead.checkpoint import (
    CheckpointStore,
    ModelState,
    NumberState,
    OptimizerState,
    Stateful,
    write_atomically,
)
from fairlead.data import DataFeed
from fairlead.errors import DataError


class Tied(nn.Module):
    """An embedding whose weight is the head's, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> Any:
        return self.head(torch.tanh(self.body(self.embedding(ids))))


class Training:
    """A small training run with everything a checkpoint must hold."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Tied()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.feed = DataFeed(7, seed=3)

    @property
    def parts(self) -> dict[str, Stateful]:
        return {
            "model": ModelState(self.model),
            "optimizer": OptimizerState(self.optimizer),
            "feed": NumberState(self.feed),
        }

    def steps(self, count: int) -> None:
        for _ in range(count):
            ids = torch.tensor(self.feed.take(3))
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(ids), (ids + 1) % 7).backward()
            self.optimizer.step()
            self.model.seen += 1

    def same_as(self, other: Training) -> bool:
        mine, theirs = self.model.state_dict(), other.model.state_dict()
        return all(torch.equal(mine[name], theirs[name]) for name in mine)


def saved(directory: Path, steps: int, keep: int = 5) -> tuple[CheckpointStore, Training]:
    """Train, with a checkpoint after every step."""
    store, training = CheckpointStore(directory, keep), Training(seed=0)
    for step in range(1, steps + 1):
        training.steps(1)
        store.save(step, training.parts)
    return store, training


def test_restoring_is_exact_and_training_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    store, whole = saved(tmp_path, 5)
    resumed = Training(seed=99)
    assert store.load(resumed.parts) == 5
    assert resumed.same_as(whole)
    whole.steps(5)
    resumed.steps(5)
    assert resumed.same_as(whole)


def test_a_tied_weight_is_held_once_and_is_still_tied_after_a_restore(tmp_path: Path) -> None:
    store, whole = saved(tmp_path, 1)
    assert set(whole.parts["model"].tensors()) == {
        "embedding.weight",
        "body.weight",
        "body.bias",
        "seen",
    }
    resumed = Training(seed=99)
    store.load(resumed.parts)
    assert resumed.model.head.weight is resumed.model.embedding.weight
    assert torch.equal(resumed.model.head.weight, whole.model.embedding.weight)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, file: str, damage: Any
) -> None:
    store, _ = saved(tmp_path, 3)
    damage(tmp_path / "step-00000003" / file)
    before = Training(seed=0)
    before.steps(2)
    resumed = Training(seed=99)
    assert store.load(resumed.parts) == 2
    assert resumed.same_as(before)
    assert store.newest() == tmp_path / "step-00000002"


def test_with_nothing_valid_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    store, _ = saved(tmp_path, 1)
    truncate(tmp_path / "step-00000001" / "model.safetensors")
    fresh = Training(seed=99)
    assert store.load(fresh.parts) == 0
    assert fresh.same_as(Training(seed=99))
    assert store.newest() is None
    assert CheckpointStore(tmp_path / "nowhere").load(fresh.parts) == 0


def test_a_draft_left_by_a_kill_is_ignored_and_replaced(tmp_path: Path) -> None:
    store, training = saved(tmp_path, 1)
    draft = tmp_path / ".draft-00000002"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    (draft / "stale.safetensors").write_bytes(b"half")
    assert store.load(Training(seed=99).parts) == 1
    training.steps(1)
    path = store.save(2, training.parts)
    assert not draft.exists()
    assert not (path / "stale.safetensors").exists()
    assert store.load(Training(seed=99).parts) == 2


def test_a_process_killed_while_it_writes_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; from torch import nn\n"
        "from fairlead.checkpoint import CheckpointStore, ModelState\n"
        "store = CheckpointStore(Path(sys.argv[1]), 2); model = nn.Linear(300, 300)\n"
        "for step in range(1, 100000):\n"
        "    nn.init.constant_(model.weight, step)\n"
        "    store.save(step, {'model': ModelState(model)})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "step-00000003").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    model = nn.Linear(300, 300)
    step = CheckpointStore(tmp_path).load({"model": ModelState(model)})
    assert step >= 2
    assert torch.equal(model.weight, torch.full((300, 300), float(step)))


def test_old_checkpoints_are_pruned_once_a_newer_one_is_complete(tmp_path: Path) -> None:
    saved(tmp_path, 5, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store, training = saved(tmp_path, 2)
    training.steps(1)
    store.save(2, training.parts)
    resumed = Training(seed=99)
    assert store.load(resumed.parts) == 2
    assert resumed.same_as(training)


def test_a_checkpoint_of_other_parts_is_refused_by_name(tmp_path: Path) -> None:
    store, training = saved(tmp_path, 1)
    parts = {**training.parts, "value": ModelState(nn.Linear(1, 1))}
    with pytest.raises(DataError, match=r"holds .*this configuration needs .*'value'"):
        store.load(parts)


def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    store, _ = saved(tmp_path / "checkpoints", 2)
    store.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    names = {path.name for path in (tmp_path / "step-00000001").iterdir()}
    assert names == {
        "manifest.json",
        "state.json",
        "model.safetensors",
        "optimizer.safetensors",
    }
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    write_atomically(path, "nü")
    assert path.read_text(encoding="utf-8") == "nü"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
