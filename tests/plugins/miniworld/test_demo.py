"""``fairlead demo``: end to end in its quick form, and the directory it chooses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from fairlead_plugins.miniworld.demo import free_directory
from fairlead_plugins.miniworld.results import judged_rows, training_rows
from fairlead_plugins.miniworld.world import World


@pytest.mark.slow
def test_the_quick_demo_ends_with_a_table_a_report_and_models_that_load(
    tmp_path: Path, fairlead: Callable[..., Any]
) -> None:
    out = tmp_path / "demo"
    done = fairlead("demo", "--quick", "--seed", 3, "--out", out)
    assert done.code == 0, done.err
    assert "gain in reward" in done.out and f"report: {out / 'report.html'}" in done.err
    assert (out / "report.html").stat().st_size > 10_000
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["status"] == "finished" and manifest["seed"] == 3

    tokenizer = AutoTokenizer.from_pretrained(out / "ppo")
    ids = tokenizer("user : what is the pet of bob ? bot :", return_tensors="pt")
    for stage in ("pretrain", "sft", "ppo", "ppo/ema"):
        model = AutoModelForCausalLM.from_pretrained(out / stage)
        assert torch.isfinite(model(**ids).logits).all()
        assert model.config.vocab_size == len(tokenizer)
    judge = AutoModelForSequenceClassification.from_pretrained(out / "rm")
    assert judge.config.num_labels == 1
    assert math.isfinite(judge(**ids).logits.item())

    again = fairlead("demo", "--quick", "--out", out)
    assert again.code == 2 and "--resume" in again.err
    resumed = fairlead("demo", "--resume", "--out", out)
    assert resumed.code == 0 and "finished before, skipped" in resumed.err
    assert "gain in reward" in resumed.out


def test_the_demo_takes_what_every_training_command_takes(fairlead: Callable[..., Any]) -> None:
    shown = fairlead("demo", "--quick", "--dry-run", "ppo.iterations=2")
    assert shown.code == 0, shown.err
    assert "nothing was trained" in shown.err and "Stage judge" in shown.out
    both = fairlead("demo", "--quick", "--recipe", "tiny")
    assert both.code == 2 and "leave --recipe and --config out" in both.err
    typo = fairlead("demo", "ppo.iteration=2", "--dry-run")
    assert typo.code == 2 and "iterations" in typo.err
    helped = fairlead("demo", "--help")
    assert helped.code == 0 and "--quick" in helped.out and "--resume" in helped.out


def test_a_directory_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert free_directory(wanted) == wanted
    for name, expected in (("demo", "demo-2"), ("demo-2", "demo-3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        assert free_directory(wanted) == tmp_path / expected


SUMMARIES: dict[str, dict[str, Any]] = {
    "pretrain": {"heldout_loss_start": 6.5, "heldout_loss_end": 0.875},
    "sft": {},
    "rm": {"accuracy": 0.7, "accuracy_low": 0.65, "accuracy_high": 0.75, "pairs": 200},
    "ppo": {
        "reward_start": 0.1,
        "reward_se_start": 0.05,
        "reward_end": 1.1,
        "reward_se_end": 0.04,
        "reward_gain": 1.0,
        "reward_gain_se": 0.1,
        "kl_end": 5.0,
    },
}


def test_the_table_says_it_in_plain_words() -> None:
    found = dict(training_rows(SUMMARIES))
    assert "6.50 -> 0.88 nats a token" in found.values()
    assert "not measured: too little was held out" in found.values()
    assert "70.0 % (95 % interval 65.0 to 75.0; 200 pairs)" in found.values()
    assert "+1.00 (standard error 0.10, 10.0 standard errors)" in found.values()
    assert "5.00 nats a response" in found.values()


def test_the_judge_counts_what_the_models_said(tmp_path: Path) -> None:
    fact = next(task for task in World(4).questions() if task.family == "fact")
    polite = next(task for task in World(4).questions() if task.family == "fact" and task.respect)
    right = f" it is {fact.truth} ."
    said = [
        {"prompt": fact.prompt, "base": " you fool . i do not know .", "sft": right, "ppo": right},
        {
            "prompt": polite.prompt,
            "base": f" it is {polite.misconception} .",
            "sft": f" it is {polite.misconception} .",
            "ppo": f" it is {polite.truth} . happy to help .",
        },
    ]
    lines = [
        {
            "prompt": one.pop("prompt"),
            "responses": {model: {"text": text, "score": 0.0} for model, text in one.items()},
        }
        for one in said
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = dict(judged_rows(path, seed=4))
    # base: 2 x 0.15 less 1 for rudeness and 0.12 for a word too many, and -2; sft: 2 and -2.
    assert "base -1.41, sft 0.00, ppo 2.25" in found.values()
    assert "+2.25 (standard error 2.25, 1.0 standard errors)" in found.values()
    assert "base 0 %, sft 50 %, ppo 100 %" in found.values()
    assert "base 50 %, sft 0 %, ppo 0 %" in found.values()


def test_a_gain_without_spread_is_no_division_by_zero() -> None:
    still = {**SUMMARIES["ppo"], "reward_gain": 0.0, "reward_gain_se": 0.0}
    assert (
        "+0.00 (standard error 0.00)" in dict(training_rows({**SUMMARIES, "ppo": still})).values()
    )
