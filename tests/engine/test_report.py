"""The report of a run as it should be: whole, and true in numbers, words and charts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reporting import Page, full_run, make_run, report, stage

from fairlead.errors import ConfigError
from fairlead.report import write_report
from fairlead.report.load import load_run
from fairlead.report.panels import frontier_panel

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
