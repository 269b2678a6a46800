"""Fairlead's PPO step and TRL's in turns: a busy minute of the machine strikes both.

    python -m venv trl-env && trl-env/bin/pip install trl==1.12.0
    python benchmarks/ppo_turns.py --trl trl-env/bin/python --json runs/turns.json

Each round runs every case once, one process after the other; what is reported is the median over
the rounds of each run's median step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FAIRLEAD = Path(sys.executable).with_name("fairlead")


@dataclass(frozen=True)
class Work:
    """What both do.

    Attributes:
        name: In the table.
        flags: Of ``fairlead bench ppo``: sizes and lengths.
        variants: More flags, by name: each is a case of ours against the same of TRL.
        stop: Whether responses end early, which TRL is told.
        steps: Measured a run.
    """

    name: str
    flags: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    stop: bool
    steps: int


SMALL = ("--layers", "2", "--hidden", "128", "--heads", "4")
EARLY = ("--mean-length", "32")
PLAIN: dict[str, tuple[str, ...]] = {"float32": ()}
VARIANTS = {**PLAIN, "reused": ("--reuse",), "bfloat16": ("--precision", "bfloat16")}
WORKS = (
    Work("12 M", (), VARIANTS, False, 2),
    Work("12 M, early ends", EARLY, PLAIN, True, 2),
    Work("1 M", SMALL, PLAIN, False, 6),
    Work("1 M, early ends", (*SMALL, *EARLY), PLAIN, True, 6),
)


def read(command: list[str], file: Path) -> Any:
    """Run a command that writes a file, and read that."""
    done = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(file.read_text())


def one_round(
    trl: str,
    directory: Path,
    results: dict[str, dict[str, list[Any]]],
    works: list[Work],
    left_out: list[str],
) -> None:
    """Run every case of these works once, but for the variants left out."""
    for number, work in enumerate(works):
        models = directory / str(number)
        found = results.setdefault(work.name, {})
        for name, more in work.variants.items():
            if name in left_out:
                continue
            keep = () if models.exists() else ("--keep", str(models))
            command = [str(FAIRLEAD), "bench", "ppo", *work.flags, *more, *keep]
            ours = read([*command, "--steps", str(work.steps)], directory / "ours.json")
            found.setdefault(name, []).append(ours)
        command = [trl, str(HERE / "ppo_trl.py"), "--models", str(models)]
        command += ["--steps", str(work.steps), *(["--stop"] if work.stop else [])]
        found.setdefault("TRL", []).append(read(command, directory / "trl.json"))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trl", required=True, help="python of an environment with trl==1.12.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every run's numbers")
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        choices=[*VARIANTS],
        help="bfloat16, say, which takes minutes a step on a processor without it; can be repeated",
    )
    names = [work.name for work in WORKS]
    parser.add_argument(
        "--only", action="append", choices=names, help="one work; can be repeated; default: all"
    )
    options = parser.parse_args()
    works = [work for work in WORKS if work.name in (options.only or names)]
    results: dict[str, dict[str, list[Any]]] = {}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            one_round(options.trl, Path(directory), results, works, options.leave_out)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def table(results: dict[str, dict[str, list[Any]]]) -> str:
    """Return medians and the range of the rounds' ratios, and the highest peaks, as Markdown."""
    columns = ("model", "work", "TRL, s", "Fairlead, s", "times faster", "range")
    columns += ("of the matrix floor", "GiB", "TRL's GiB")
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for name, runs in results.items():
        trl = runs["TRL"]
        theirs = [run["seconds"] for run in trl]
        for variant, own in runs.items():
            if variant == "TRL":
                continue
            ours = [run["result"]["seconds"] for run in own]
            each = [one / other for one, other in zip(theirs, ours, strict=True)]
            floor = statistics.median(run["floor_seconds"] for run in own) / statistics.median(ours)
            peaks = [max(run["result"]["peak_gib"].values()) for run in own]
            cells = (
                *(name, variant, f"{statistics.median(theirs):.2f}"),
                *(f"{statistics.median(ours):.2f}", f"{statistics.median(each):.2f}x"),
                *(f"{min(each):.2f} to {max(each):.2f}", f"{floor:.0%}", f"{max(peaks):.2f}"),
                f"{max(run['peak_gib'] for run in trl):.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
