"""The miniworld's claims over several seeds, and what taking out one piece does to them.

    python benchmarks/miniworld.py --out runs/miniworld --seeds 0 1 2 --ablations
    python benchmarks/miniworld.py --out runs/miniworld --seeds 11 12 13

Each run is one process with one thread, two at a time. What is finished is not run again, and the
tables of docs/miniworld.md are printed at the end.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fairlead.report.text import duration
from fairlead.stages import read_stage
from fairlead_plugins.miniworld.claims import Claim
from fairlead_plugins.miniworld.report import CLAIMS, read_claims

HERE = Path(__file__).parent
JUDGED = ("samples", "measure", "claims")


@dataclass(frozen=True)
class Ablation:
    """The pipeline with one piece taken out.

    Attributes:
        name: What is taken out.
        anew: Stages that run again; `JUDGED` always do.
        settings: What changes of the configuration; WHOLE is the run with nothing taken out,
            HERE the ablation's own.
        plugin: A plugin file that it needs.
    """

    name: str
    anew: tuple[str, ...]
    settings: tuple[str, ...]
    plugin: Path | None = None


ABLATIONS = (
    Ablation("no KL penalty", ("ppo_ptx",), ("ppo_ptx.algorithm.kl_coefficient=0",)),
    Ablation("no ptx", ("ppo_ptx",), ("ppo_ptx.auxiliary=[]",)),
    Ablation(
        "no base samples in the RM data",
        ("label", "rm", "ppo_ptx", "ppo", "overopt"),
        # Its reward model is measured on the comparisons that the others are measured on.
        (
            "label.models={sft: {model: 'stage:sft'}}",
            "measure.evaluators.8.source.path=WHOLE/label/staff.jsonl",
            "measure.evaluators.9.source.path=WHOLE/label/heldout_staff.jsonl",
        ),
    ),
    Ablation("value model not from the RM", ("ppo_ptx",), ("ppo_ptx.value=HERE/fresh",)),
    Ablation("no whitening", ("ppo_ptx",), ("ppo_ptx.algorithm.whiten_advantages='off'",)),
    Ablation("score at every token", ("ppo_ptx",), (), HERE / "every_token.py"),
)


def main() -> None:
    """Run what is not there yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--ablations", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: whole(asked.out, seed), asked.seeds))
        table("seed", {str(seed): [asked.out / f"seed{seed}"] for seed in asked.seeds})
        if asked.ablations:
            todo = [(one, seed) for one in ABLATIONS for seed in asked.seeds]
            list(pool.map(lambda pair: without(asked.out, *pair), todo))
            runs = {"nothing": [asked.out / f"seed{seed}" for seed in asked.seeds]}
            for one in ABLATIONS:
                runs[one.name] = [place(asked.out, one, seed) for seed in asked.seeds]
            table("taken out", runs)


def whole(out: Path, seed: int) -> None:
    """Run the recipe as it is."""
    start(out / f"seed{seed}", [f"seed={seed}"])


def place(out: Path, one: Ablation, seed: int) -> Path:
    """Return where an ablation is run."""
    return out / f"seed{seed}-{one.name.replace(' ', '-')}"


def without(out: Path, one: Ablation, seed: int) -> None:
    """Run the recipe with one piece taken out, on top of the stages that it does not change."""
    directory = place(out, one, seed)
    if not directory.exists():
        left_out = shutil.ignore_patterns(*one.anew, *JUDGED)
        shutil.copytree(out / f"seed{seed}", directory, ignore=left_out)
    if "HERE/fresh" in " ".join(one.settings):
        fresh(directory)
    whole, here = str((out / f"seed{seed}").resolve()), str(directory.resolve())
    settings = [text.replace("WHOLE", whole).replace("HERE", here) for text in one.settings]
    start(directory, [f"seed={seed}", *settings], one.plugin)


def fresh(directory: Path) -> None:
    """Write the SFT model with a scalar head that has learnt nothing."""
    from fairlead.scalar import scalar_from_causal
    from fairlead.strategy import SingleDevice
    from fairlead.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(directory / "sft"))
    model = scalar_from_causal(
        str(directory / "sft"), len(tokenizer), tokenizer.pad_token_id, SingleDevice("cpu"), 0
    )
    model.save(directory / "fresh")
    tokenizer.save_pretrained(directory / "fresh")


def start(directory: Path, settings: Sequence[str], plugin: Path | None = None) -> None:
    """Run the pipeline in a process of its own, unless it is finished."""
    if (directory / "claims" / CLAIMS).exists():
        return
    command = [
        str(Path(sys.executable).with_name("fairlead")),
        "pipeline",
        "--recipe",
        "miniworld",
        "--quiet",
    ]
    command += ["--out", str(directory), "threads=1", *settings]
    command += ["--plugin", str(plugin)] if plugin else []
    command += ["--resume"] if (directory / "run.json").exists() else []
    subprocess.run(command, check=True)


def table(first: str, runs: dict[str, list[Path]]) -> None:
    """Print a Markdown table: a row a claim, a column an entry."""
    found = {
        name: [read_claims(d / "claims" / CLAIMS) for d in dirs] for name, dirs in runs.items()
    }
    print(f"\n| {first} | gate | {' | '.join(found)} |\n|{' --- |' * (len(found) + 2)}")
    for row, claim in enumerate(next(iter(found.values()))[0]):
        cells = [" / ".join(cell(claims[row]) for claims in one) for one in found.values()]
        print(f"| {claim.claim}: {claim.measure} | {claim.gate} | {' | '.join(cells)} |")
    seconds = [[_seconds(run) for run in dirs] for dirs in runs.values()]
    cells = [" / ".join(map(duration, one)) for one in seconds]
    print(f"| time, one thread of two busy ones | | {' | '.join(cells)} |")


def _seconds(run: Path) -> float:
    """Return what a run's stages took, those taken from another run included."""
    return sum(float(read_stage(place).get("seconds", 0.0)) for place in run.iterdir())


def cell(claim: Claim) -> str:
    """Return the number and its interval; a gate that fails is bold."""
    if claim.value is None:
        return "**no number**"
    ends = (
        "" if claim.low is None or claim.high is None else f" ({claim.low:.2f}, {claim.high:.2f})"
    )
    text = f"{claim.value:.2f}{ends}"
    return f"**{text}**" if claim.holds is False else text


if __name__ == "__main__":
    main()
