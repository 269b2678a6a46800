"""The report of a run in any state: unfinished, damaged, or with text that would be markup."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from reporting import full_run, make_run, report, stage, steps

from fairlead.errors import ConfigError
from fairlead.report import write_report
from fairlead.report.text import escape

HOSTILE = "</div></script><script>alert(1)</script><img src=x onerror=alert(2)>\"' &amp;"


# --- runs in any state ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "still going on, or was killed"), ("failed", "failed"), ("stopped", "stopped")],
)
def test_a_run_that_did_not_finish_says_so(tmp_path: Path, status: str, words: str) -> None:
    run = full_run(tmp_path)
    manifest = json.loads((run / "run.json").read_text())
    manifest |= {"status": status, "finished": None}
    manifest["stages"] += ["later"]
    (run / "run.json").write_text(json.dumps(manifest))
    (run / "ppo/stage.json").write_text(
        json.dumps({"name": "ppo", "component": "ppo", "status": status, "error": "lr too high"})
    )
    text = report(run).text
    assert f"{words} in stage ppo after 20 steps: 2 of 4 stages are finished." in text
    assert "not started" in text
    assert "lr too high" in text


def test_a_last_line_cut_by_a_kill_is_ignored(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    with (run / "sft/metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "loss/train": 999')
    text = report(run).text
    assert "999" not in text
    assert "could not be read" not in text


def test_a_last_sample_cut_by_a_kill_is_ignored(tmp_path: Path) -> None:
    sample = {"prompt": "p", "responses": {"sft": {"text": "whole", "score": 1.0}}}
    run = make_run(tmp_path, {"c": stage("compare", samples=[sample])})
    with (run / "c/samples.jsonl").open("a") as file:
        file.write('{"prompt": "p2", "respon')
    text = report(run).text
    assert "whole" in text
    assert "could not be read" not in text


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    with (run / "sft/metrics.jsonl").open("a") as file:
        file.write("rubbish\n{}\n")
    assert "2 lines of its files could not be read" in report(run).text


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"summary": 3, "seconds": "x"}'])
def test_no_optional_file_is_needed_and_a_broken_one_does_no_harm(
    tmp_path: Path, content: str
) -> None:
    run = make_run(tmp_path, {"sft": stage("sft"), "ppo": stage("ppo")})
    (run / "sft/stage.json").unlink()
    for name in ("stage.json", "metrics.jsonl", "samples.jsonl"):
        (run / "ppo" / name).write_text(content)
    assert "Nothing was recorded." in report(run).text


def test_a_bare_manifest_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    text = report(tmp_path).text
    assert "How this run ended is not known: 0 of 0 stages are finished." in text
    assert "This run names no stages." in text


def test_odd_values_in_every_field_give_a_page(tmp_path: Path) -> None:
    odd = {"calibration": [1, {"confidence": "x"}], "accuracy": "high", "reward_gain": math.nan}
    rows = [
        {"step": 1, "a": None, "b": "text", "c": True, "d": [1], "e": 10**400, "f": 1e308},
        {"step": 2, "a": math.inf, "b": 1, "f": -1e308, "g": 5e-324},
        {"step": 10**30, "a": 1.0},
    ]
    run = make_run(
        tmp_path,
        {"x": stage("x", summary=odd, rows=rows, seconds=None, steps=None)},
        plugins={"not": "a list"},
        versions=["a"],
        config="text",
        command="fairlead run",
        started=12,
    )
    page = report(run)
    assert "fairlead run" in page.text


def test_values_that_are_not_finite_are_counted_and_leave_a_gap(tmp_path: Path) -> None:
    rows = steps(9, **{"loss/train": lambda i: None if i == 5 else i})
    run = make_run(tmp_path, {"sft": stage("sft", rows=rows)})
    text = write_report(run).read_text(encoding="utf-8")
    assert "1 value not finite" in text
    assert text.count('<polyline class="line"') == 2


def test_a_metric_that_was_never_finite_is_named(tmp_path: Path) -> None:
    rows = steps(3, **{"loss/train": lambda i: None})
    text = report(make_run(tmp_path, {"sft": stage("sft", rows=rows)})).text
    assert "loss/train" in text
    assert "3 values not finite" in text


@pytest.mark.parametrize("name", ["../secret", "/etc", "a/b", "..", ""])
def test_a_stage_name_cannot_lead_out_of_the_run(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "stage.json").write_text('{"error": "outside"}')
    run = make_run(tmp_path / "run", {}, stages=[name])
    text = report(run).text
    assert "outside" not in text
    assert "This run names no stages." in text


# --- errors -----------------------------------------------------------------------------


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run.*run\.json.*Give that directory"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is not a run"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=r"run\.json .*must be one JSON object"):
        write_report(tmp_path)


# --- hostile text -----------------------------------------------------------------------


def test_model_output_stays_text(tmp_path: Path) -> None:
    sample = {"prompt": HOSTILE, "responses": {HOSTILE: {"text": HOSTILE, "score": 1.0}}}
    calm = report(make_run(tmp_path / "calm", {"c": stage("compare", samples=[])}))
    page = report(
        make_run(tmp_path / "hostile", {"c": stage("compare", samples=[sample])}, name="x")
    )
    assert page.count("script") == calm.count("script") == 1
    assert page.count("img") == 0
    assert page.text.count(HOSTILE) == 3


def test_hostile_text_in_any_other_place_stays_text(tmp_path: Path) -> None:
    rows = steps(3, **{HOSTILE: lambda i: i})
    entry = stage(HOSTILE, summary={HOSTILE: HOSTILE}, rows=rows, status=HOSTILE, error=HOSTILE)
    run = make_run(
        tmp_path,
        {"sft": entry},
        name=HOSTILE,
        status=HOSTILE,
        device=HOSTILE,
        seed=HOSTILE,
        started=HOSTILE,
        command=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        platform=HOSTILE,
        plugins=[{"name": HOSTILE, "version": HOSTILE, "error": HOSTILE}],
        config={HOSTILE: [HOSTILE]},
    )
    page = report(run)
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_bytes_no_page_can_hold_are_replaced(tmp_path: Path) -> None:
    sample = {"prompt": "a\x00b\x1b[2J\ud800c", "responses": {"sft": {"text": "ok\n\tfine"}}}
    path = write_report(make_run(tmp_path, {"c": stage("compare", samples=[sample])}))
    text = path.read_bytes().decode("utf-8")
    assert "a\ufffdb\ufffd[2J\ufffdc" in text
    assert "ok\n\tfine" in text
    assert escape("\x85\ufffe") == "\ufffd\ufffd"
