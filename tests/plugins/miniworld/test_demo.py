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

from fairlead_plugins.miniworld.demo import free_directory, newest_directory

STAGES = (
    *("pretrain", "sft", "label", "rm", "ppo_ptx", "ppo", "overopt"),
    *("samples", "measure", "claims"),
)


@pytest.mark.slow
def test_the_quick_demo_ends_with_claims_a_report_and_models_that_load(
    tmp_path: Path, fairlead: Callable[..., Any]
) -> None:
    out = tmp_path / "demo"
    done = fairlead("demo", "--quick", "--seed", 3, "--out", out)
    assert done.code == 0, done.err  # whether the claims hold or not
    assert "--quick shows that everything runs" in done.err
    assert "labelers agree" in done.out and f"report: {out / 'report.html'}" in done.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The paper&#x27;s claims, in miniature" in page or "The paper's claims" in page
    assert "its numbers say nothing of the claims" in page
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["status"] == "finished" and manifest["seed"] == 3
    assert tuple(manifest["stages"]) == STAGES

    claims = json.loads((out / "claims" / "claims.json").read_text(encoding="utf-8"))
    keys = {"claim", "measure", "paper", "value", "low", "high", "gate", "holds"}
    assert len(claims) == 13 and all(set(claim) == keys for claim in claims)
    assert all(claim["value"] is None or math.isfinite(claim["value"]) for claim in claims)
    assert {claim["holds"] for claim in claims if not claim["gate"]} == {None}
    assert all(claim["holds"] in (True, False) for claim in claims if claim["gate"])

    tokenizer = AutoTokenizer.from_pretrained(out / "ppo_ptx")
    ids = tokenizer("user : what is the pet of bob ? bot :", return_tensors="pt")
    for stage in ("pretrain", "sft", "ppo_ptx", "ppo", "overopt"):
        model = AutoModelForCausalLM.from_pretrained(out / stage)
        assert torch.isfinite(model(**ids).logits).all()
        assert model.config.vocab_size == len(tokenizer)
    judge = AutoModelForSequenceClassification.from_pretrained(out / "rm")
    assert judge.config.num_labels == 1
    assert math.isfinite(judge(**ids).logits.item())

    again = fairlead("demo", "--quick", "--out", out)
    assert again.code == 2 and "--resume" in again.err
    # A model trained for two iterations cannot have what the claims ask for.
    resumed = fairlead("demo", "--resume", "--check", "--out", out)
    assert resumed.code == 1 and "finished before, skipped" in resumed.err
    assert "claims do not hold: " in resumed.err and "labelers agree" in resumed.out


def test_the_demo_takes_what_every_training_command_takes(fairlead: Callable[..., Any]) -> None:
    shown = fairlead("demo", "--quick", "--dry-run", "ppo_ptx.iterations=3")
    assert shown.code == 0, shown.err
    assert "nothing was trained" in shown.err and "Stage measure" in shown.out
    for option in ("--quick", "--check"):
        both = fairlead("demo", option, "--recipe", "tiny")
        assert both.code == 2 and "leave --recipe and --config out" in both.err
    nothing = fairlead("demo", "--quick", "--check")
    assert nothing.code == 2 and "Leave out --quick or --check" in nothing.err
    twice = fairlead("demo", "--seed", 6, "seed=5", "--dry-run")
    assert twice.code == 2 and "given twice, as --seed and as seed=N" in twice.err
    typo = fairlead("demo", "ppo.iteration=2", "--dry-run")
    assert typo.code == 2 and "iterations" in typo.err
    helped = fairlead("demo", "--help")
    assert helped.code == 0 and "--quick" in helped.out and "--check" in helped.out


def test_a_directory_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert free_directory(wanted) == newest_directory(wanted) == wanted
    for name, expected in (("demo", "demo-2"), ("demo-2", "demo-3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        assert free_directory(wanted) == tmp_path / expected
        assert newest_directory(wanted) == tmp_path / name  # what --resume goes on with


def test_a_run_of_another_recipe_is_not_taken_for_a_demo(
    tmp_path: Path, fairlead: Callable[..., Any]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    stage = "{name: pretrain, model: gpt2, source: {name: inline, records: [{text: a}]}, steps: 1}"
    (other / "config.yaml").write_text(f"stages: {{one: {stage}}}")
    done = fairlead("demo", "--resume", "--out", other)
    assert done.code == 2 and "without a stage miniworld_claims" in done.err
