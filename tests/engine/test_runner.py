"""The runner: what it refuses, what it leaves alone, and how it stops between stages."""

from __future__ import annotations

import hashlib
import inspect
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support import configure, copy_finished, metrics, recipe, run_stages

from fairlead.data import DataFeed
from fairlead.errors import ConfigError, DataError, Stopped
from fairlead.plugins import load_plugins
from fairlead.runner import LOCK, preview, run
from fairlead.ui import Display

SHORT = ("pretrain.steps=2", "sft.epochs=1", "rm.epochs=1", "ppo.iterations=1")


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_stages(recipe("tiny"), out, overrides=SHORT)
    return out


def test_a_dry_run_beside_a_finished_run_leaves_it_as_it_is(finished: Path) -> None:
    before = digests(finished)
    config, plugins = configure(recipe("tiny"), SHORT)
    everything = preview(config, plugins, root=finished)
    one = preview(config, plugins, only=["ppo"], root=finished)
    assert list(everything) == list(config.stages)
    assert one["ppo"].facts["episodes"] == 8  # 1 iteration of 8 prompts
    assert digests(finished) == before


def test_a_stage_that_failed_at_once_can_be_started_again(tmp_path: Path) -> None:
    """It holds nothing to lose: no step, no checkpoint."""
    faulty = [*SHORT, "pretrain.model.model_type=lama"]
    with pytest.raises(ConfigError, match="'lama' is not one that transformers has"):
        run_stages(recipe("tiny"), tmp_path, overrides=faulty, only=["pretrain"])
    assert json.loads((tmp_path / "pretrain/stage.json").read_text())["status"] == "failed"
    run_stages(recipe("tiny"), tmp_path, overrides=SHORT, only=["pretrain"])
    assert json.loads((tmp_path / "pretrain/stage.json").read_text())["status"] == "finished"


def test_a_directory_that_another_process_writes_to_is_left_alone(finished: Path) -> None:
    """Two would train the same stage into it, and each would break the other's files."""
    with FileLock(finished / LOCK):
        before = digests(finished)
        with pytest.raises(ConfigError, match=r"another process is writing to .*tiny\. Wait until"):
            run_stages(recipe("tiny"), finished, overrides=SHORT, resume=True)
        assert digests(finished) == before
    run_stages(recipe("tiny"), finished, overrides=SHORT, resume=True)


def test_a_stage_with_work_in_it_is_not_written_over(finished: Path) -> None:
    before = digests(finished)
    with pytest.raises(ConfigError, match=r"holds a finished stage already\. Add --resume"):
        run_stages(recipe("tiny"), finished, overrides=SHORT)
    assert digests(finished) == before


def test_a_signal_between_two_stages_stops_before_the_next(tmp_path: Path) -> None:
    """The stage that was finishing is finished; nothing of the next one is begun."""

    class Stopper:
        @staticmethod
        def finish(summary: dict[str, Any], context: Any) -> None:
            context.stop._note(signal.SIGTERM, None)

    plugins = load_plugins()
    plugins.manager.add_hookcall_monitoring(
        before=lambda name, impls, arguments: (
            Stopper.finish(**arguments) if name == "stage_finished" else None
        ),
        after=lambda *_: None,
    )
    config, plugins = configure(recipe("tiny"), SHORT, plugins)
    with pytest.raises(Stopped, match="before stage 'sft'"):
        run(config, plugins, tmp_path, only=["pretrain", "sft"], display=Display(quiet=True))
    assert json.loads((tmp_path / "pretrain/stage.json").read_text())["status"] == "finished"
    assert not (tmp_path / "sft").exists()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


def test_a_damaged_source_is_read_and_reported_once_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every stage of the recipe reads the same source; its warning comes once."""
    raw = recipe("tiny")
    raw["data"]["rankings"].append({"prompt": "broken", "responses": [" a"], "ranks": [0]})
    for stage in ("pretrain", "sft"):
        raw["stages"][stage]["source"]["skip"] = 1
    run_stages(raw, tmp_path, overrides=SHORT, only=["pretrain", "sft"])
    assert len([r for r in caplog.records if "left out 1" in r.getMessage()]) == 1


def test_the_manifest_says_what_ran(finished: Path) -> None:
    manifest = json.loads((finished / "run.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["stages"] == ["pretrain", "sft", "rm", "ppo", "compare"]
    assert {"fairlead", "torch", "transformers", "python"} <= set(manifest["versions"])
    assert {plugin["name"] for plugin in manifest["plugins"]} >= {"sft", "ppo", "reward_model"}
    assert manifest["config"]["stages"]["ppo"]["algorithm"]["kl_coefficient"] == 0.02


def test_a_stage_without_work_may_be_mended_and_one_with_work_may_not(tmp_path: Path) -> None:
    """A typo in a later stage costs no earlier one; what work was done with stays as it was."""
    faulty = [*SHORT, "rm.demonstrations={name: jsonl, path: nope.jsonl}"]
    with pytest.raises(DataError, match=r"nope\.jsonl"):
        run_stages(recipe("tiny"), tmp_path, overrides=faulty)
    # Found before the reward model took a step.
    assert not (tmp_path / "rm/metrics.jsonl").exists()
    before = digests(tmp_path / "sft")
    with pytest.raises(ConfigError, match=r"stages\.sft\.lr\.peak was 0\.003 and is 0\.1"):
        run_stages(recipe("tiny"), tmp_path, overrides=[*SHORT, "sft.lr.peak=0.1"], resume=True)
    with pytest.raises(ConfigError, match="seed was 0 and is 7"):
        run_stages(recipe("tiny"), tmp_path, overrides=[*SHORT, "seed=7"], only=["rm"])
    run_stages(recipe("tiny"), tmp_path, overrides=SHORT, resume=True)
    assert digests(tmp_path / "sft") == before
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_a_dry_run_of_ppo_looks_for_the_reward_function(finished: Path) -> None:
    reward = "ppo.reward={name: function, function: 'nowhere.py:score'}"
    config, plugins = configure(recipe("tiny"), [*SHORT, reward])
    with pytest.raises(ConfigError, match=r"'nowhere\.py:score' cannot be imported"):
        preview(config, plugins, root=finished)


def test_a_damaged_manifest_is_a_clear_error(finished: Path, tmp_path: Path) -> None:
    copy_finished(finished, tmp_path, ["pretrain"])
    (tmp_path / "run.json").write_text('{"name": "ti')
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        run_stages(recipe("tiny"), tmp_path, overrides=SHORT, resume=True)


def test_prompts_longer_than_any_model_takes_are_left_out_or_refused(
    finished: Path, tmp_path: Path
) -> None:
    """Context 64: with 60 new tokens a prompt may have 4; with 63, one; none of them fits."""
    copy_finished(finished, tmp_path, ["pretrain", "sft", "rm"])
    tight = [*SHORT, "ppo.rollout.max_new_tokens=60", "ppo.evaluators=[]"]
    config, plugins = configure(recipe("tiny"), tight)
    facts = preview(config, plugins, only=["ppo"], root=tmp_path)["ppo"].facts
    assert facts["prompts"] + facts["left out, too long"] == 10
    assert facts["left out, too long"] > 0
    full = [*SHORT, "ppo.rollout.max_new_tokens=63"]
    with pytest.raises(DataError, match=r"none of 10 prompts can be used.*context.*64"):
        run_stages(recipe("tiny"), tmp_path, overrides=full, only=["ppo"])
    none = [*SHORT, "ppo.rollout.max_new_tokens=1000"]
    with pytest.raises(ConfigError, match=r"max_new_tokens=1000 leaves no room.* 64 .* 63 at most"):
        run_stages(recipe("tiny"), tmp_path, overrides=none, only=["ppo"])


def test_the_kl_is_zero_before_the_first_step_in_half_precision_too(tmp_path: Path) -> None:
    """Policy and reference are one model, so their log-probs are equal, bit for bit."""
    run_stages(recipe("tiny"), tmp_path, overrides=[*SHORT, "precision=bfloat16"])
    first = next(line for line in metrics(tmp_path / "ppo") if line["step"] == 1)
    assert first["objective/kl"] == 0.0
    assert first["val/ratio_first"] == pytest.approx(1.0, abs=2e-2)


def test_a_resume_with_other_data_is_refused(tmp_path: Path) -> None:
    feed = DataFeed(10, seed=0)
    feed.take(3)
    with pytest.raises(DataError, match=r"written with 10 examples.*there are 9 now"):
        DataFeed(9, seed=0).restore(feed.state())


@pytest.mark.parametrize("stage", ["pretrain", "sft", "rm", "ppo", "compare"])
def test_a_stages_loop_stands_on_one_screen(stage: str) -> None:
    run_method = load_plugins().registry.get("stages", stage).load().run
    assert len(inspect.getsource(run_method).splitlines()) < 80
