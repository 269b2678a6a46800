"""Runs as they lie on disk, and the page that the report makes of one, for tests of it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fairlead.report import write_report

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
        {"confidence": 0.55, "accuracy": 0.5, "count": 90}
        | {"accuracy_low": 0.4, "accuracy_high": 0.6},
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
