"""Which charts a stage gets: its metrics in the order people look for them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fairlead.report.charts import CalibrationBin, Series, line_chart, mean_path
from fairlead.report.load import StageRecord
from fairlead.report.text import figure
from fairlead.report.values import is_number, number

FIRST = (
    "eval/reward",
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "objective/non_score_reward",
    "objective/entropy",
    "loss/train",
    "accuracy",
    "margin",
    "mean_reward",
    "loss/heldout",
    "heldout/loss",
    "heldout/accuracy",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "loss/ptx",
    "val/explained_variance",
    "val/ratio",
    "lr",
    "tokens_per_second",
)
"""Metrics shown openly, in this order; what else was measured is folded away below them."""

PARTNERS = {
    "loss/train": ("loss/heldout", "heldout/loss"),
    "accuracy": ("heldout/accuracy",),
    "margin": ("heldout/margin",),
}
"""Metrics drawn into the chart of another: the same quantity on held-out data."""

UNITS = {
    "loss/heldout": "nats a token",
    "loss/ptx": "nats a token",
    "heldout/loss": "nats a pair",
    "objective/kl": "nats a sequence",
    "objective/entropy": "nats a sequence",
    "objective/scores": "reward",
    "objective/rlhf_reward": "reward",
    "objective/non_score_reward": "reward",
    "eval/reward": "reward",
    "mean_reward": "reward",
    "margin": "reward",
    "accuracy": "share of pairs",
    "heldout/accuracy": "share of pairs",
    "policy/approxkl_avg": "nats a token",
    "policy/clipfrac_avg": "share of tokens",
    "val/clipfrac_avg": "share of tokens",
    "val/explained_variance": "share",
    "val/ratio": "ratio",
    "lr": "learning rate",
    "tokens_per_second": "tokens a second",
}
# Set, not sampled: a mean over them would blur what they were.
_EXACT = ("lr", "value/lr", "episode", "objective/kl_coefficient")


@dataclass(frozen=True)
class Panel:
    """One chart and what stands around it.

    Attributes:
        names: The metrics it shows; more than one needs a key.
        svg: The chart.
        last: The latest value of the first metric, for people.
        note: Stands below it; may be empty.
        title: Instead of the names, where it shows something derived from them.
    """

    names: tuple[str, ...]
    svg: str
    last: str = ""
    note: str = ""
    title: str = ""


def stage_panels(stage: StageRecord) -> tuple[list[Panel], list[Panel]]:
    """Return the charts of a stage: those shown openly, and those folded away."""
    there = stage.metrics
    hidden = {f"{name}_se" for name in there}
    groups: list[tuple[str, ...]] = []
    for name in [*(n for n in FIRST if n in there), *sorted(set(there) - set(FIRST))]:
        if name in hidden:
            continue
        partner = next((p for p in PARTNERS.get(name, ()) if p in there), None)
        groups.append((name, partner) if partner else (name,))
        hidden.update({name, partner} if partner else {name})
    shown: list[Panel] = []
    folded: list[Panel] = []
    for group in groups:
        panel = _panel(stage, group)
        if panel is not None:
            (shown if group[0] in FIRST else folded).append(panel)
    frontier = frontier_panel(stage)
    if frontier is not None:
        shown.insert(min(3, len(shown)), frontier)
    return shown, folded


def _panel(stage: StageRecord, names: tuple[str, ...]) -> Panel | None:
    series = [_series(stage, name) for name in names]
    label = ", ".join(names)
    svg = line_chart(label, series, y_label=_unit(stage, names[0]))
    finite = [y for _, y in series[0].points if math.isfinite(y)]
    lost = sum(not math.isfinite(y) for one in series for _, y in one.points)
    note = f"{lost} value{'s' * (lost != 1)} not finite" if lost else ""
    if not svg:
        return Panel(names, "", note=note) if lost else None
    return Panel(names, svg, figure(finite[-1]) if finite else "", note)


def _series(stage: StageRecord, name: str) -> Series:
    points = stage.series(name)
    now_and_then = name.startswith(("eval/", "heldout/")) or name == "loss/heldout"
    errors = None
    if f"{name}_se" in stage.metrics:
        known = {x: y for x, y in stage.series(f"{name}_se") if math.isfinite(y)}
        errors = [known.get(x, 0.0) for x, _ in points]
    smooth = not now_and_then and name not in _EXACT
    return Series(name, points, smooth=smooth, dots=now_and_then, errors=errors)


def _unit(stage: StageRecord, name: str) -> str:
    if name == "loss/train":
        # The one name whose unit depends on the stage: a reward model's loss is over pairs.
        return "nats a pair" if "accuracy" in stage.metrics else "nats a token"
    return UNITS.get(name, "reward" if name.startswith("eval/reward") else "value")


def frontier_panel(stage: StageRecord) -> Panel | None:
    """Return reward against the square root of KL, the axes of Gao et al. 2022.

    It shows what each bit of distance from the reference bought; steps are not on it.
    """
    kl = {x: y for x, y in stage.series("objective/kl") if math.isfinite(y)}
    scores = [(x, y) for x, y in stage.series("objective/scores") if math.isfinite(y) and x in kl]
    if len(scores) < 2:
        return None
    rollouts = [(_root(kl[x]), y) for x, y in scores]
    enough = len(rollouts) >= 8
    path = mean_path(rollouts) if enough else rollouts
    series = [Series("objective/scores", path, path=True)]
    # An evaluation at step k is of the policy that the rollout of step k + 1 is drawn from.
    known = ((kl.get(x + 1, kl.get(x)), y) for x, y in stage.series("eval/reward"))
    evals = [(_root(distance), y) for distance, y in known if distance is not None]
    if evals:
        series.append(Series("eval/reward", evals, scatter=True))
    svg = line_chart(
        "Reward against the square root of KL",
        series,
        x_label="\u221aKL from the reference (KL in nats a sequence)",
        y_label="reward",
        steps=False,
    )
    note = f"Axes of Gao et al. 2022{'; the line is smoothed along the run' * enough}."
    names = tuple(one.name for one in series)
    return Panel(names, svg, note=note, title="Reward against \u221aKL")


def _root(kl: float) -> float:
    return math.sqrt(max(kl, 0.0))  # an estimate of a KL near zero may fall below it


def calibration_bins(stage: StageRecord) -> list[CalibrationBin]:
    """Return a reward model's calibration, bins without pairs left out."""
    entries = stage.summary.get("calibration")
    bins = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        values = [number(entry.get(key)) for key in ("confidence", "accuracy", "count")]
        known = [value for value in values if value is not None]
        if len(known) == 3 and 0 <= known[0] <= 1 and 0 <= known[1] <= 1 and known[2] >= 1:
            low, high = number(entry.get("accuracy_low")), number(entry.get("accuracy_high"))
            interval = None if low is None or high is None else (low, high)
            bins.append(CalibrationBin(known[0], known[1], int(known[2]), interval))
    return bins


def mean_scores(stage: StageRecord) -> list[tuple[str, float, int]]:
    """Return (model, mean score, how many were scored) of a comparison's samples."""
    scores: dict[str, list[float]] = {}
    for sample in stage.samples:
        for name, response in sample.responses.items():
            if response.score is not None:
                scores.setdefault(name, []).append(response.score)
    return [(name, sum(all_) / len(all_), len(all_)) for name, all_ in scores.items()]


def models(stage: StageRecord) -> list[str]:
    """Return the models compared, in the order the samples name them."""
    return list(_ordered(name for sample in stage.samples for name in sample.responses))


def summary_rows(stage: StageRecord) -> list[tuple[str, str]]:
    """Return everything plain in a summary as (name, value) rows, nested names dotted."""
    return list(_flat("", stage.summary, depth=0))


def _flat(prefix: str, value: object, depth: int) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and depth < 4:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item, depth + 1)
    elif is_number(value) and isinstance(value, (int, float)):
        yield prefix, figure(value)
    elif isinstance(value, bool):
        yield prefix, "yes" if value else "no"
    elif isinstance(value, str):
        yield prefix, value
    elif isinstance(value, list) and value and all(is_number(item) for item in value):
        yield prefix, ", ".join(figure(item) for item in value)


def _ordered(names: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(names)
