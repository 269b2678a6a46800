"""The demo's results as a short table in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Summaries = Mapping[str, Mapping[str, Any]]


def rows(summaries: Summaries) -> list[tuple[str, str]]:
    """Return (what was measured, result) for what the demo's stages found.

    Args:
        summaries: Each stage's summary, by the names of the recipe ``demo``.
    """
    ppo = summaries["ppo"]
    return [
        ("loss on held-out text, before and after pretraining", _loss(summaries["pretrain"])),
        ("loss on held-out demonstrations, before and after SFT", _loss(summaries["sft"])),
        ("reward model: held-out pairs it ranks as the labeler did", _accuracy(summaries["rm"])),
        (
            "reward on held-out prompts, SFT model",
            _with_error(ppo["reward_start"], ppo["reward_se_start"]),
        ),
        (
            "reward on the same prompts, after PPO",
            _with_error(ppo["reward_end"], ppo["reward_se_end"]),
        ),
        ("gain in reward, prompt by prompt", _gain(ppo)),
        ("how far PPO went from the SFT model (KL)", f"{ppo['kl_end']:.2f} nats a response"),
        ("gold score, which no stage was trained on", _judged(summaries["judge"])),
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


def _gain(ppo: Mapping[str, Any]) -> str:
    gain, error = ppo["reward_gain"], ppo["reward_gain_se"]
    errors = f", {gain / error:.1f} standard errors" if error > 0 else ""
    return f"{gain:+.2f} (standard error {error:.2f}{errors})"


def _judged(summary: Mapping[str, Any]) -> str:
    means = {
        name.removeprefix("mean_score/"): value
        for name, value in summary.items()
        if name.startswith("mean_score/")
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in means.items())
