"""The demo's results as a short table in plain words."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead_plugins.miniworld.gold import gold, is_rude, is_true
from fairlead_plugins.miniworld.world import Task, World

Summaries = Mapping[str, Mapping[str, Any]]
Row = tuple[str, str]


def training_rows(summaries: Summaries) -> list[Row]:
    """Return (what was measured, result) for the stages that train.

    Args:
        summaries: Each stage's summary, by the names of the recipe ``demo``.
    """
    ppo = summaries["ppo"]
    before = _with_error(ppo["reward_start"], ppo["reward_se_start"])
    after = _with_error(ppo["reward_end"], ppo["reward_se_end"])
    return [
        ("loss on held-out text, before and after pretraining", _loss(summaries["pretrain"])),
        ("loss on held-out demonstrations, before and after SFT", _loss(summaries["sft"])),
        ("held-out pairs the reward model ranks as the labeler did", _accuracy(summaries["rm"])),
        ("reward on held-out prompts, SFT model", before),
        ("reward on the same prompts, after PPO", after),
        ("gain in reward, prompt by prompt", _gain(ppo["reward_gain"], ppo["reward_gain_se"])),
        ("how far PPO went from the SFT model (KL)", f"{ppo['kl_end']:.2f} nats a response"),
    ]


def judged_rows(samples: Path, seed: int) -> list[Row]:
    """Return what the world's own judge finds, whom no stage was trained on.

    Args:
        samples: The ``samples.jsonl`` that a stage ``compare`` wrote.
        seed: Of the world.
    """
    by_prompt = {task.prompt: task for task in World(seed).questions()}
    answers: dict[str, list[tuple[Task, str]]] = {}
    for line in samples.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for model, response in entry["responses"].items():
            answers.setdefault(model, []).append((by_prompt[entry["prompt"]], response["text"]))
    scores = {model: [gold(*one) for one in given] for model, given in answers.items()}
    return [
        ("gold score (the judge's; at best about 2.5)", _each(scores, _mean)),
        ("gain in gold score, PPO over SFT", _paired(scores["ppo"], scores["sft"])),
        ("fact questions answered right", _each(answers, _right)),
        (
            "rude answers",
            _each(answers, _rude),
        ),
    ]


def _loss(summary: Mapping[str, Any]) -> str:
    start, end = summary.get("heldout_loss_start"), summary.get("heldout_loss_end")
    if start is None or end is None:
        return "not measured: too little was held out"
    return f"{start:.2f} -> {end:.2f} nats a token"


def _accuracy(summary: Mapping[str, Any]) -> str:
    if "accuracy" not in summary:
        return "not measured: too little was held out"
    low, high = 100 * summary["accuracy_low"], 100 * summary["accuracy_high"]
    return (
        f"{100 * summary['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f}; "
        f"{summary['pairs']} pairs)"
    )


def _with_error(value: float, error: float) -> str:
    return f"{value:.2f} (standard error {error:.2f})"


def _gain(gain: float, error: float) -> str:
    errors = f", {gain / error:.1f} standard errors" if error > 0 else ""
    return f"{gain:+.2f} (standard error {error:.2f}{errors})"


def _paired(mine: Sequence[float], theirs: Sequence[float]) -> str:
    gains = [a - b for a, b in zip(mine, theirs, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return _gain(statistics.mean(gains), error)


def _each(by_model: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    return ", ".join(f"{model} {show(given)}" for model, given in by_model.items())


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}"


def _right(given: Sequence[tuple[Task, str]]) -> str:
    return _share([is_true(task, said) for task, said in given if task.family == "fact"])


def _rude(given: Sequence[tuple[Task, str]]) -> str:
    return _share([is_rude(said) for _, said in given])


def _share(found: Sequence[bool]) -> str:
    return f"{100 * sum(found) / len(found):.0f} %" if found else "none asked"
