"""The commands that show things: recipes, config, plugins, report, env."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]
TOY = Path(__file__).with_name("toy.yaml")


# --- recipes ----------------------------------------------------------------------------


def test_recipes_are_listed_with_their_first_line(toy: Run) -> None:
    (row,) = json.loads(toy("recipes", "list", "--json").out)
    assert row["name"] == "toy"
    assert row["about"] == "Two toy stages that train nothing."
    assert row["path"] == str(TOY)
    assert "toy_plugin" in row["from"]
    assert "Two toy stages that train nothing." in toy("recipes", "list").out


def test_the_recipes_that_come_with_fairlead_have_a_line_each(fairlead: Run) -> None:
    rows = json.loads(fairlead("recipes", "list", "--json").out)
    names = {row["name"] for row in rows}
    assert {"instructgpt-1.3b", "instructgpt-6b", "single-gpu-1b", "hh", "tiny"} <= names
    assert all(row["about"] for row in rows)


def test_a_recipe_is_shown_as_it_stands(toy: Run) -> None:
    assert toy("recipes", "show", "toy").out == TOY.read_text()
    unknown = toy("recipes", "show", "tyo")
    assert unknown.code == 2
    assert "did you mean 'toy'?" in unknown.err


def test_a_recipe_is_copied_and_never_over_a_file_unasked(toy: Run) -> None:
    assert toy("recipes", "copy", "toy").out == "toy.yaml\n"
    assert Path("toy.yaml").read_text() == TOY.read_text()
    Path("toy.yaml").write_text("mine")
    again = toy("recipes", "copy", "toy")
    assert again.code == 2
    assert "toy.yaml exists already" in again.err
    assert Path("toy.yaml").read_text() == "mine"
    assert toy("recipes", "copy", "toy", "--force").code == 0
    assert Path("toy.yaml").read_text() == TOY.read_text()
    assert toy("recipes", "copy", "toy", "other.yaml").code == 0
    assert toy("config", "validate", "--config", "other.yaml").code == 0
    nowhere = toy("recipes", "copy", "toy", "no/such/x.yaml")
    assert nowhere.code == 2
    assert "no/such is no directory" in nowhere.err


# --- config -----------------------------------------------------------------------------


def test_what_config_show_prints_is_the_same_configuration_again(toy: Run) -> None:
    shown = toy("config", "show", "--recipe", "toy", "first.steps=5", "heldout=1e-3")
    assert shown.code == 0
    data = yaml.safe_load(shown.out)
    assert data["stages"]["first"] == {
        "name": "sft",
        "model": "nowhere",
        "steps": 5,
        "fail": "",
    }
    assert data["heldout"] == 0.001
    Path("shown.yaml").write_text(shown.out)
    assert toy("config", "show", "--config", "shown.yaml").out == shown.out


def test_the_tiny_recipe_survives_being_shown(fairlead: Run, tmp_path: Path) -> None:
    shown = fairlead("config", "show", "--recipe", "tiny")
    assert shown.code == 0, shown.err
    (tmp_path / "shown.yaml").write_text(shown.out)
    assert fairlead("config", "show", "--config", tmp_path / "shown.yaml").out == shown.out


def test_config_validate_lists_every_fault(toy: Run) -> None:
    good = toy("config", "validate", "--recipe", "toy")
    assert (good.code, good.out) == (0, "valid: first (sft), scores (rm)\n")
    bad = toy("config", "validate", "--recipe", "toy", "first.stps=1", "scores.steps=x")
    assert bad.code == 2
    assert "stages.first.stps: there is no such key (did you mean 'steps'?)" in bad.err
    assert "stages.scores.steps" in bad.err


# --- plugins ----------------------------------------------------------------------------


def test_plugins_are_listed_with_what_they_bring(
    toy: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("sorry", "import no_such_dependency", version="4.5")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "sorry")
    listed = toy("plugins", "list", "--json")
    assert listed.code == 0
    rows = {row["name"]: row for row in json.loads(listed.out)}
    assert rows["toy_plugin"]["registers"] == {
        "stages": ["rm", "sft"],
        "recipes": ["toy"],
        "commands": ["hello"],
    }
    assert rows["toy_plugin"]["error"] == ""
    assert rows["sorry"]["registers"] == {}
    assert (rows["sorry"]["distribution"], rows["sorry"]["version"]) == ("sorry-dist", "4.5")
    assert "no_such_dependency" in rows["sorry"]["error"]
    table = toy("plugins", "list").out
    assert "stages: rm, sft" in table
    assert "cannot be loaded: ModuleNotFoundError" in table


def test_one_plugin_is_shown_in_full(
    toy: Run,
    plugin_file: Callable[[str, str], str],
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = plugin_file(
        "listener",
        '''
        """Counts the steps."""
        from fairlead import hookimpl

        @hookimpl
        def step_finished(step):
            pass
        ''',
    )
    shown = toy("plugins", "info", "listener", "--plugin", path)
    assert shown.code == 0
    assert "Counts the steps." in shown.out
    assert "step_finished" in shown.out
    unknown = toy("plugins", "info", "toy_plugn")
    assert unknown.code == 2
    assert "did you mean 'toy_plugin'?" in unknown.err
    install("sorry", "import no_such_dependency")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "sorry")
    broken = toy("plugins", "info", "sorry")
    assert broken.code == 2
    assert "no_such_dependency" in broken.out


# --- report and env ---------------------------------------------------------------------


def test_report_prints_the_page_it_wrote(toy: Run) -> None:
    toy("pipeline", "--recipe", "toy")
    assert toy("report", "runs/toy").out == "runs/toy/report.html\n"
    assert toy("report", "runs/toy", "--out", "page.html").out == "page.html\n"
    assert Path("page.html").is_file()
    assert toy("report", "nowhere").code == 2


def test_env_tells_what_a_bug_report_needs(toy: Run) -> None:
    found = json.loads(toy("env", "--json").out)
    assert {"fairlead", "python", "torch", "transformers"} <= set(found["versions"])
    assert found["device"] in ("cpu", "cuda")
    assert found["plugins"] == 1
    assert found["broken plugins"] == {}
    assert set(found["extras"]) == {"data", "tensorboard", "xformers"}
    assert isinstance(found["native kernels"]["available"], bool)
    assert "versions: torch" in toy("env").out
