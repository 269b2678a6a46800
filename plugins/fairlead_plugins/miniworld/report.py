"""The claims stage: reads what was measured, and says what came of the paper's claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import model_validator

from fairlead.checkpoint import write_atomically
from fairlead.config import Config
from fairlead.errors import ConfigError, listing
from fairlead.report import blocks
from fairlead.stages import Preview, StageContext
from fairlead_plugins.miniworld.claims import (
    SMOOTH,
    Claim,
    Curve,
    Measurements,
    all_claims,
    smoothed,
)

CLAIMS = "claims.json"

MODELS = {"base": "base", "SFT": "sft", "PPO": "ppo", "PPO-ptx": "ptx"}
"""What to call each model that was measured."""

COLUMNS = ("claim", "measure", "paper", "ours (95 % interval)", "gate", "holds")


class ClaimsConfig(Config):
    """Settings of ``miniworld_claims``.

    Attributes:
        measurements: What a stage ``evaluate`` found of the models base, sft, ppo and ptx.
        runs: Names to show, to the metrics of a PPO stage.
        overoptimised: Which of them has neither KL penalty nor pretraining mix.
        note: Stands below the table of claims.
    """

    measurements: str = "stage:measure/results.json"
    runs: dict[str, str] = {
        "PPO-ptx": "stage:ppo_ptx/metrics.jsonl",
        "PPO": "stage:ppo/metrics.jsonl",
        "no KL": "stage:overopt/metrics.jsonl",
    }
    overoptimised: str = "no KL"
    note: str = ""

    @model_validator(mode="after")
    def _one_of_the_runs(self) -> ClaimsConfig:
        if self.overoptimised not in self.runs:
            raise ValueError(
                f"overoptimised is {self.overoptimised!r}, and the runs are {listing(self.runs)}: "
                "name one of them"
            )
        return self


class ClaimsStage:
    """Writes ``claims.json``, and the claims at the top of the report."""

    Config = ClaimsConfig

    def __init__(self, config: ClaimsConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Judge every claim; returns how many hold.

        Raises:
            ConfigError: When something that a claim rests on was not measured or logged.
        """
        cfg = self.config
        path = Path(context.locate_file(cfg.measurements))
        found = Measurements(json.loads(path.read_text(encoding="utf-8")))
        runs = {
            name: read_curve(Path(context.locate_file(where))) for name, where in cfg.runs.items()
        }
        claims = all_claims(found, runs[cfg.overoptimised])
        text = json.dumps(list(map(asdict, claims)), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(context.directory / CLAIMS, text + "\n")
        shown = _blocks(claims, found, runs, cfg.note)
        blocks.write_blocks(context.directory, shown, place="top")
        gated = [claim for claim in claims if claim.holds is not None]
        return {
            "steps": len(claims),
            "gates": len(gated),
            "hold": sum(c.holds is True for c in gated),
        }

    def preview(self, context: StageContext) -> Preview:
        """Say what would be read: nothing of it is there yet."""
        read = (self.config.measurements, *self.config.runs.values())
        return Preview(facts={"reads": ", ".join(read)})


def read_curve(path: Path) -> Curve:
    """Read what a PPO run logged of the gold score, the reward model's and the KL.

    Raises:
        ConfigError: When it logged none.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "scores/gold" in row and "scores/rm" in row]
    if not rows:
        raise ConfigError(
            f"{path} has no iteration with scores/gold and scores/rm. The run's reward must be "
            "a sum with the terms gold and rm, as in the recipe miniworld."
        )
    return Curve(
        [row["scores/gold"] for row in rows],
        [row["scores/rm"] for row in rows],
        [row["objective/kl"] for row in rows],
    )


def read_claims(path: Path) -> list[Claim]:
    """Read ``claims.json``."""
    return [Claim(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def rows(claims: Sequence[Claim]) -> list[tuple[str, str, str, str, str, str]]:
    """Return claim, measure, paper, ours, gate and whether it holds, as text."""
    return [
        (c.claim, c.measure, c.paper, _ours(c), c.gate or "reported", verdict(c)) for c in claims
    ]


def verdict(claim: Claim) -> str:
    """Return whether a claim holds, in a word."""
    return {True: "holds", False: "fails", None: "-"}[claim.holds]


def _ours(claim: Claim) -> str:
    if claim.value is None:
        return "no number"
    low, high = ("?" if end is None else f"{end:.2f}" for end in (claim.low, claim.high))
    return f"{claim.value:.2f} ({low} to {high})"


def _blocks(
    claims: Sequence[Claim], found: Measurements, runs: Mapping[str, Curve], note: str
) -> list[blocks.Block]:
    status: dict[bool | None, Any] = {True: "good", False: "bad", None: "plain"}
    table = [
        (*row[:-1], blocks.Cell(row[-1], status[claim.holds]))
        for row, claim in zip(rows(claims), claims, strict=True)
    ]
    return [
        blocks.Table(COLUMNS, table, title="The paper's claims, in miniature", note=note),
        _win_rates(found),
        _right(found),
        _text(found),
        *(_reward_and_kl(kind, runs) for kind in ("gold", "proxy")),
    ]


def _win_rates(found: Measurements) -> blocks.Bars:
    asked = {
        "over SFT": "over_sft",
        "over base": "over_base",
        "code, over base": "code",
        "foreign, over base": "foreign",
    }
    return blocks.Bars(
        _groups(found, asked),
        title="Win rates, by gold",
        reference=0.5,
        low=0.0,
        high=1.0,
        note="How often an answer beats the other model's to the same prompt; a tie is half.",
    )


def _right(found: Measurements) -> blocks.Bars:
    asked = {
        "facts never asked in RLHF, true": "truthful",
        "rude, asked for respect": "rude",
        "counting, right": "counting",
    }
    return blocks.Bars(_groups(found, asked), title="Answers that are ...", low=0.0, high=1.0)


def _text(found: Measurements) -> blocks.Bars:
    bars = [
        blocks.Bar(name, one.value, one.low, one.high)
        for name, one in ((name, found.mean("nll", model)) for name, model in MODELS.items())
    ]
    return blocks.Bars(
        [blocks.Group("loss on pretraining text", bars)],
        title="The alignment tax",
        unit="nats a token, mean over blocks",
        low=0.0,
    )


def _groups(found: Measurements, asked: Mapping[str, str]) -> list[blocks.Group]:
    return [
        blocks.Group(title, [_bar(name, found, label, model) for name, model in MODELS.items()])
        for title, label in asked.items()
    ]


def _bar(name: str, found: Measurements, label: str, model: str) -> blocks.Bar:
    one = found.metric(label, model)
    if one.low == -float("inf") or one.high == float("inf"):
        return blocks.Bar(name, one.value)
    return blocks.Bar(name, one.value, one.low, one.high)


def _reward_and_kl(kind: str, runs: Mapping[str, Curve]) -> blocks.Curves:
    series = [
        blocks.Curve(name, list(zip(smoothed(run.kl), smoothed(getattr(run, kind)), strict=True)))
        for name, run in runs.items()
    ]
    title = {"gold": "Gold score against KL", "proxy": "Reward model's score against KL"}[kind]
    return blocks.Curves(
        series,
        x="KL to SFT, nats a response",
        y="score",
        title=title,
        note=f"Means over {SMOOTH} iterations, where there are so many, of the answers trained on.",
    )
