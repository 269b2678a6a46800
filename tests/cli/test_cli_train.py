"""The commands that train: choosing, previewing, resuming, and how each end is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.cli.output import marked

Run = Callable[..., Any]


def test_a_pipeline_runs_every_stage_and_writes_a_report(toy: Run) -> None:
    done = toy("pipeline", "--recipe", "toy", "first.steps=7")
    assert done.code == 0, done.err
    manifest = json.loads(Path("runs/toy/run.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["config"]["stages"]["first"]["steps"] == 7
    assert [p["name"] for p in manifest["plugins"]] == ["toy_plugin"]
    assert "report: runs/toy/report.html" in done.err
    assert Path("runs/toy/report.html").is_file()
    rows = [line.split() for line in done.out.splitlines()]
    assert ["first", "steps", "7"] in rows
    assert ["scores", "loss", "0.25"] in rows


def test_one_stage_runs_alone(toy: Run) -> None:
    assert toy("sft", "--recipe", "toy", "--out", "elsewhere").code == 0
    assert Path("elsewhere/first/config.json").is_file()
    assert not Path("elsewhere/scores").exists()
    assert not Path("runs").exists()


def test_quiet_says_nothing_when_all_goes_well(toy: Run) -> None:
    done = toy("pipeline", "--recipe", "toy", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_where_several_stages_fit_one_must_be_chosen(toy: Run) -> None:
    second = "stages={a: sft, b: sft}"
    unclear = toy("sft", "--recipe", "toy", second)
    assert unclear.code == 2
    assert "several stages that `fairlead sft` can run: a, b" in unclear.err
    assert toy("sft", "--recipe", "toy", second, "--stage", "b").code == 0
    assert Path("runs/toy/b").is_dir()
    assert not Path("runs/toy/a").exists()


def test_a_stage_that_is_not_there_is_an_error_that_lists_them(toy: Run) -> None:
    none = toy("ppo", "--recipe", "toy")
    assert none.code == 2
    assert "Its stages: first (sft), scores (rm)" in none.err
    other = toy("sft", "--recipe", "toy", "--stage", "scores")
    assert other.code == 2
    assert "It can run: first" in other.err


@pytest.mark.parametrize(
    ("fail", "code", "message"),
    [
        ("config", 2, "error: a fault of the configuration"),
        ("data", 3, "error: a fault of the data"),
        ("nan", 4, "error: the loss is not finite"),
        ("stop", 5, "error: stopped by SIGTERM"),
        ("interrupt", 130, "interrupted"),
        ("disk", 1, "No space left on device"),
    ],
)
def test_each_end_has_its_exit_code_and_no_traceback(
    toy: Run, fail: str, code: int, message: str
) -> None:
    done = toy("pipeline", "--recipe", "toy", f"scores.fail={fail}")
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    # The first stage's work is kept, and the report says how far it came.
    assert Path("runs/toy/first/config.json").is_file()
    assert Path("runs/toy/report.html").is_file() == (fail != "interrupt")


def test_a_traceback_is_shown_on_demand(toy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_DEBUG", "1")
    done = toy("sft", "--recipe", "toy", "first.fail=data")
    assert done.code == 3
    assert "Traceback" in done.err


def test_a_fault_in_the_report_does_not_hide_how_the_run_ended(
    toy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr("fairlead.report.write_report", broken)
    done = toy("pipeline", "--recipe", "toy", "scores.fail=nan")
    assert done.code == 4
    assert "warning: the report could not be written: no ink" in done.err
    assert "error: the loss is not finite" in done.err


def test_a_refusal_leaves_another_runs_report_alone(toy: Run) -> None:
    toy("pipeline", "--recipe", "toy")
    Path("runs/toy/report.html").write_text("as it was")
    again = toy("pipeline", "--recipe", "toy")
    assert again.code == 2
    assert "Add --resume" in again.err
    assert Path("runs/toy/report.html").read_text() == "as it was"


# --- resuming ---------------------------------------------------------------------------


def test_a_resume_takes_the_runs_own_configuration_and_plugins(
    toy: Run, fairlead: Run, plugin_file: Callable[[str, str], str]
) -> None:
    other = plugin_file("other", "")
    stopped = toy("pipeline", "--recipe", "toy", "--plugin", other, "scores.fail=stop")
    assert stopped.code == 5
    config = Path("runs/toy/config.yaml")
    config.write_text(config.read_text().replace("fail: stop", "fail: ''"))
    manifest = Path("runs/toy/run.json")
    manifest.write_text(manifest.read_text().replace('"fail": "stop"', '"fail": ""'))
    # No plugin is named here: the configuration lists those the run was begun with.
    resumed = fairlead("pipeline", "--resume", "--out", "runs/toy")
    assert resumed.code == 0, resumed.err
    assert "first: finished before, skipped" in resumed.err
    assert [p["name"] for p in json.loads(manifest.read_text())["plugins"]] == [
        "toy_plugin",
        "other",
    ]


def test_a_resume_needs_a_run(toy: Run) -> None:
    nowhere = toy("pipeline", "--resume")
    assert nowhere.code == 2
    assert "give --out DIR" in nowhere.err
    nothing = toy("pipeline", "--resume", "--out", "nothing")
    assert nothing.code == 2
    assert "nothing holds no run" in nothing.err


def test_a_resume_with_another_configuration_is_refused(toy: Run) -> None:
    toy("pipeline", "--recipe", "toy", "scores.fail=stop")
    changed = toy("pipeline", "--resume", "--out", "runs/toy", "first.steps=9")
    assert changed.code == 2
    assert "stages.first.steps was 3 and is 9" in changed.err


# --- naming a configuration -------------------------------------------------------------


@pytest.mark.parametrize("given", [(), ("--recipe", "toy", "--config", "x.yaml")])
def test_exactly_one_configuration_is_named(toy: Run, given: tuple[str, ...]) -> None:
    done = toy("pipeline", *given)
    assert done.code == 2
    assert "give exactly one of --recipe NAME and --config FILE" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "tyo"), "no recipe named 'tyo' (did you mean 'toy'?)"),
        (("--config", "nope.yaml"), "nope.yaml cannot be read"),
        (("--recipe", "toy", "sede=1"), "sede: there is no such key (did you mean 'seed'?)"),
        (("--recipe", "toy", "name=../up"), "cannot be a run's name"),
        (("--recipe", "toy", "plugins=x.py"), "plugins: 'x.py' is not a list"),
        (("--recipe", "toy", "plugins=[nope.py]"), "nope.py: there is no such file"),
        (("--recipe", "toy", "--no-plugin", "nope"), "no plugin named 'nope'"),
        (("--recipe", "toy", "--nope"), "No such option"),
    ],
)
def test_faults_of_usage_and_configuration_exit_with_2(
    toy: Run, arguments: tuple[str, ...], message: str
) -> None:
    done = toy("pipeline", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    assert not Path("runs").exists()


def test_plugins_listed_in_a_configuration_are_loaded_once(
    toy: Run, plugin_file: Callable[[str, str], str]
) -> None:
    path = plugin_file("listed", "")
    config = Path("mine.yaml")
    config.write_text(f"plugins: [{path}, ./listed.py]\nstages: {{a: sft}}\n")
    assert toy("pipeline", "--config", config, "--plugin", "listed.py").code == 0
    plugins = json.loads(Path("runs/run/run.json").read_text())["plugins"]
    assert [p["name"] for p in plugins] == ["toy_plugin", "listed"]
    left_out = toy("config", "validate", "--config", config, "--no-plugin", "listed")
    assert left_out.code == 0


def test_a_broken_plugin_is_one_line_of_warning(
    toy: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("sorry", "raise RuntimeError('two\\nlines')", version="4.5")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "sorry")
    done = toy("pipeline", "--recipe", "toy", "--quiet")
    assert done.code == 0
    assert done.err == (
        "warning: plugin 'sorry' (sorry-dist 4.5) could not be loaded: RuntimeError: two lines\n"
    )
    missing = toy("pipeline", "--recipe", "toy", "first.name=dpo", "--out", "x")
    assert missing.code == 2
    assert "no stage named 'dpo'" in missing.err
    assert "may belong to a plugin that is broken: plugin 'sorry' (sorry-dist 4.5)" in missing.err


# --- dry runs ---------------------------------------------------------------------------


def test_a_dry_run_shows_facts_a_marked_sample_and_memory_and_writes_nothing(toy: Run) -> None:
    before = set(Path.cwd().rglob("*"))
    done = toy("pipeline", "--recipe", "toy", "--dry-run")
    assert done.code == 0, done.err
    assert "Stage first (sft)" in done.out
    assert "Stage scores (rm)" in done.out
    assert "12,345" in done.out
    assert "why? [[because]] and so" in done.out
    assert "1.50" in done.out
    assert set(Path.cwd().rglob("*")) == before


def test_a_dry_run_of_one_stage_shows_it_alone(toy: Run) -> None:
    shown = toy("sft", "--recipe", "toy", "--dry-run").out
    assert "Stage first (sft)" in shown
    assert "scores" not in shown


def test_a_sample_cannot_steer_the_terminal_and_is_cut_when_long() -> None:
    assert marked([("a\x1b[2Jb", True)], plain=True) == "[[a\\x1b[2Jb]]"
    assert marked([("a", True)], plain=False) == "\x1b[1m\x1b[4ma\x1b[0m"
    shown = marked([("x" * 5000, False)], plain=True)
    assert "(3,800 characters)" in shown
    assert len(shown) < 1400
