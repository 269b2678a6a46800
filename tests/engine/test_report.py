"""The report: true to the run, whole in any state of it, and safe to open."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fairlead.errors import ConfigError
from fairlead.report import write_report
from fairlead.report.load import load_run
from fairlead.report.panels import frontier_panel
from fairlead.report.text import escape

HOSTILE = "</div></script><script>alert(1)</script><img src=x onerror=alert(2)>\"' &amp;"
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data + "\n"

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def make_run(root: Path, made: dict[str, dict[str, Any]], **manifest: Any) -> Path:
    """Write a run directory; a stage may hold ``rows`` and ``samples`` besides stage.json."""
    root.mkdir(exist_ok=True)
    entry = {
        "name": "tiny",
        "seed": 7,
        "status": "finished",
        "started": "2026-08-01T12:30:00+0000",
        "finished": "2026-08-01T12:31:00+0000",
        "command": ["fairlead", "run", "--out", "a b"],
        "versions": {"fairlead": "0.1.0", "torch": "2.13.0"},
        "platform": "Linux",
        "device": "cpu",
        "threads": 2,
        "plugins": [
            {"name": "ppo", "distribution": "fairlead", "version": "0.1.0", "origin": "p.ppo"}
        ],
        "stages": list(made),
        "config": {"name": "tiny", "stages": {"sft": {"name": "sft", "lr": 1e-05}}},
        **manifest,
    }
    (root / "run.json").write_text(json.dumps(entry))
    for name, stage in made.items():
        (root / name).mkdir(exist_ok=True)
        rows, samples = stage.pop("rows", None), stage.pop("samples", None)
        (root / name / "stage.json").write_text(json.dumps({"name": name, **stage}))
        for file, lines in (("metrics.jsonl", rows), ("samples.jsonl", samples)):
            if lines is not None:
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (root / name / file).write_text(text)
    return root


def stage(component: str, **more: Any) -> dict[str, Any]:
    entry = {"component": component, "status": "finished", "seconds": 61.5, "steps": 20}
    return {**entry, "summary": {}, **more}


def steps(count: int, **functions: Any) -> list[dict[str, Any]]:
    return [
        {"step": i, "time": i * 0.5, **{n: f(i) for n, f in functions.items()}}
        for i in range(1, count + 1)
    ]


def report(root: Path) -> Page:
    return Page(write_report(root).read_text(encoding="utf-8"))


def full_run(root: Path) -> Path:
    sft = stage("sft", summary={"heldout_loss_start": 4.1, "heldout_loss_end": 3.6})
    sft["rows"] = steps(20, **{"loss/train": lambda i: 4.1 - i / 40, "lr": lambda i: 1e-5 / i})
    sft["rows"][9]["loss/heldout"] = 3.8
    rm = stage("rm", summary={"accuracy": 0.61, "accuracy_low": 0.55, "accuracy_high": 0.67})
    rm["summary"] |= {"pairs": 130, "ties": 12, "margin": 0.42, "bias": -0.31}
    rm["summary"]["calibration"] = [
        {"confidence": 0.55, "accuracy": 0.5, "count": 90},
        {"confidence": 0.75, "accuracy": 0.7, "count": 40},
    ]
    rm["rows"] = steps(20, **{"loss/train": lambda i: 0.7, "accuracy": lambda i: 0.6})
    ppo = stage("ppo", summary={"reward_start": -0.2, "reward_end": 1.0, "reward_gain": 1.2})
    ppo["summary"] |= {"reward_gain_se": 0.1, "kl_end": 5.3, "weights": "raw"}
    ppo["rows"] = steps(
        20,
        **{
            "objective/scores": lambda i: i / 20,
            "objective/kl": lambda i: i / 4,
            "plugin/own": lambda i: i * i,
        },
    )
    return make_run(root, {"sft": sft, "rm": rm, "ppo": ppo})


# --- the whole page ---------------------------------------------------------------------


def test_a_finished_run_is_summed_up_in_plain_words(tmp_path: Path) -> None:
    text = report(full_run(tmp_path)).text.replace("\u202f", " ")
    assert "Held-out SFT loss fell from 4.1 to 3.6." in text
    assert "is right on 61 % of pairs (95 % interval 55\u201367 %, 130 held-out pairs)." in text
    assert (
        "reward on the evaluation prompts rose by 1.20 \u00b1 0.10 (12 standard errors), "
        "from \u22120.2 to 1; KL 5.3 nats a sequence; raw weights." in text
    )


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    path = write_report(full_run(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert {"link", "img", "iframe", "object"}.isdisjoint(name for name, _ in page.tags)
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "default-src 'none'" in path.read_text(encoding="utf-8")
    assert "url(" not in path.read_text(encoding="utf-8")


def test_the_policy_allows_exactly_the_style_and_script_of_the_page(tmp_path: Path) -> None:
    import base64
    import hashlib

    text = write_report(full_run(tmp_path)).read_text(encoding="utf-8")
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text


def test_every_stage_links_from_the_strip_and_shows_status_and_time(tmp_path: Path) -> None:
    page = report(full_run(tmp_path))
    targets = [a["href"] for name, a in page.tags if name == "a"]
    ids = {f"#{a['id']}" for _, a in page.tags if "id" in a}
    assert targets == ["#stage-sft", "#stage-rm", "#stage-ppo"]
    assert set(targets) <= ids
    assert page.text.count("1 min 2 s") >= 3


def test_charts_have_titles_descriptions_and_axis_labels(tmp_path: Path) -> None:
    text = write_report(full_run(tmp_path)).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    names = []
    for drawing in drawings:
        svg = ElementTree.fromstring(drawing)
        names.append(svg.findtext("title"))
        assert svg.findtext("desc")
        labels = [t for t in svg.iter("text") if t.get("class") == "label"]
        assert len(labels) == 2
        assert len(list(svg.iter("text"))) > 4
    assert "loss/train, loss/heldout" in names
    assert "Reward against the square root of KL" in names
    assert "Calibration: accuracy against confidence" in names


def test_metrics_of_a_plugin_are_drawn_too(tmp_path: Path) -> None:
    page = report(full_run(tmp_path))
    assert "1 more metric" in page.text
    assert "plugin/own" in page.text


def test_what_ran_is_on_the_page(tmp_path: Path) -> None:
    text = report(full_run(tmp_path)).text
    for expected in ("fairlead run --out 'a b'", "2.13.0", "p.ppo", "lr: 1.0e-05", "seed 7"):
        assert expected in text


def test_calibration_stands_as_chart_and_table(tmp_path: Path) -> None:
    text = report(full_run(tmp_path)).text.replace("\u202f", " ")
    assert "55 %\n50 %\n40\u201360 %\n90" in text


def test_numbers_of_any_summary_are_listed(tmp_path: Path) -> None:
    summary = {"deep": {"er": 0.25}, "flag": True, "many": [1, 2.5], "none": None, "n": 12345}
    text = report(make_run(tmp_path, {"own": stage("plugin-stage", summary=summary)})).text
    assert "deep.er\n0.25" in text
    assert "flag\nyes" in text
    assert "many\n1, 2.5" in text
    assert "n\n12,345" in text


# --- what the words may not claim -------------------------------------------------------


def test_a_change_chance_could_make_is_called_that(tmp_path: Path) -> None:
    summary = {"reward_gain": 0.1, "reward_gain_se": 0.1}
    text = report(make_run(tmp_path, {"ppo": stage("ppo", summary=summary)})).text
    assert "1 standard error: no more than chance may do" in text


def test_an_accuracy_like_guessing_is_called_that(tmp_path: Path) -> None:
    summary = {"accuracy": 0.53, "accuracy_low": 0.44, "accuracy_high": 0.62, "pairs": 100}
    text = report(make_run(tmp_path, {"rm": stage("rm", summary=summary)})).text
    assert "not told apart from guessing" in text


def test_a_rise_of_loss_and_a_fall_of_reward_are_called_so(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        {
            "sft_rl": stage("sft", summary={"heldout_loss_start": 3.0, "heldout_loss_end": 3.5}),
            "ppo": stage("ppo", summary={"reward_start": 1.0, "reward_end": 0.5}),
        },
    )
    text = report(run).text
    assert "Held-out SFT loss (sft_rl) rose from 3 to 3.5." in text
    assert "fell by 0.5, from 1 to 0.5." in text


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


def test_the_page_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    out = tmp_path / "new" / "page.html"
    assert write_report(run, out) == out
    assert out.is_file()
    with pytest.raises(ConfigError, match="a directory; give a file name"):
        write_report(run, tmp_path)


def test_writing_it_imports_no_torch(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from fairlead.report import write_report; "
        f"write_report(Path({str(run)!r})); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


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


# --- samples ----------------------------------------------------------------------------


def test_samples_stand_side_by_side_in_the_first_lines_order(tmp_path: Path) -> None:
    order = ["pretrain", "sft", "ppo"]
    samples = [
        {"prompt": f"p{i}", "responses": {n: {"text": f"{n}{i}", "score": k + i} for k, n in pairs}}
        for i, pairs in enumerate([list(enumerate(order)), list(enumerate(order))[::-1]])
    ]
    samples.append({"prompt": "p2", "responses": {"sft": {"text": "", "score": None}}})
    text = report(make_run(tmp_path, {"compare": stage("compare", samples=samples)})).text
    assert "prompt\npretrain\nsft\nppo\n" in text
    cells = [line for line in text.splitlines() if re.fullmatch(r"(pretrain|sft|ppo)\d", line)]
    assert cells == [f"{name}{i}" for i in (0, 1) for name in order]
    assert "Mean score over 2 sampled prompts: pretrain 0.5, sft 1.5, ppo 2.5." in text
    assert "3 best" in text
    assert "empty" in text


def test_many_samples_are_folded_not_dropped(tmp_path: Path) -> None:
    samples = [{"prompt": f"p{i}.", "responses": {"sft": {"text": "t"}}} for i in range(20)]
    text = report(make_run(tmp_path, {"compare": stage("compare", samples=samples)})).text
    assert "14 more" in text
    assert all(f"p{i}." in text for i in range(20))


# --- reward against KL ------------------------------------------------------------------


def test_an_evaluation_stands_at_the_kl_of_the_policy_it_measured(tmp_path: Path) -> None:
    """An evaluation at step k is of the weights that the rollout of step k + 1 is drawn from.

    With KL 4 in the rollout of step 2 and 9 in that of step 3, the evaluations at steps 1 and
    2 stand at 2 and 3; the one at step 3, which no rollout follows, at its own step's 3.
    """
    rows = [
        {"step": 1, "objective/kl": 0.0, "objective/scores": 0.0, "eval/reward": 0.5},
        {"step": 2, "objective/kl": 4.0, "objective/scores": 1.0, "eval/reward": 1.0},
        {"step": 3, "objective/kl": 9.0, "objective/scores": 2.0, "eval/reward": 2.0},
    ]
    run = make_run(tmp_path, {"ppo": stage("ppo", rows=rows)})
    panel = frontier_panel(load_run(run).stages[0])
    assert panel is not None
    description = ElementTree.fromstring(panel.svg).findtext("desc") or ""
    assert re.findall(r"eval/reward: from 0.5 at .*? 2 to 2 at .*? 3;", description)
