"""``fairlead demo``: the whole pipeline on the tiny world, and the claims it is to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.options import PluginChoice, Request, examples
from fairlead.cli.train import (
    RunOptions,
    check_out,
    run_and_report,
    run_options,
    train,
    with_own_config,
)
from fairlead.errors import ConfigError

if TYPE_CHECKING:
    from fairlead.ui import Display

RECIPE = "miniworld"
MANIFEST = "run.json"  # fairlead.runner's, which imports torch

QUICK = (
    "pretrain.source.documents=1500",
    "pretrain.steps=40",
    "pretrain.evaluate_every=20",
    "sft.source.count=120",
    "sft.auxiliary.0.source.documents=1500",
    "sft.epochs=1",
    "label.prompts.count=120",
    "label.rounds=1",
    "rm.demonstrations.count=120",
    *(
        setting
        for stage in ("ppo_ptx", "ppo", "overopt")
        for setting in (
            f"{stage}.prompts.count=120",
            f"{stage}.iterations=2",
            f"{stage}.batch_size=32",
        )
    ),
    "ppo_ptx.auxiliary.0.source.documents=1500",
    "samples.prompts.count=120",
    "samples.count=4",
    *(f"measure.evaluators.{number}.count=12" for number in range(7)),
    "measure.evaluators.0.prompts.count=120",
    "measure.evaluators.1.prompts.count=120",
    "measure.evaluators.7.source.documents=1500",
    "claims.note=--quick shows that everything runs; what it trains has learnt next to nothing, "
    "and its numbers say nothing of the claims.",
    # Two threads are slower than one where other processes want the cores, as in tests.
    "threads=1",
)
"""What ``--quick`` changes of the recipe: every stage runs, and learns next to nothing."""


@click.command(
    epilog=examples(
        "fairlead demo",
        "fairlead demo --seed 1 ppo.algorithm.kl_coefficient=0.04 --out runs/low-beta",
        "fairlead demo --resume --out runs/demo",
    )
)
@run_options
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Decides the world, the data, the first weights and every draw; short for seed=N.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A few steps of everything, in under a minute: shows that it runs, not that it learns.",
)
@click.option("--check", is_flag=True, help="End with exit code 1 when a claim does not hold.")
@click.pass_context
def demo(
    ctx: click.Context,
    seed: int | None,
    quick: bool,
    check: bool,
    recipe: str | None,
    config: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    overrides: Sequence[str],
    out: str | None,
    resume: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Show InstructGPT's claims in miniature, in five to eight minutes.

    A made-up world of facts and misconceptions is small enough for a laptop to go through the
    whole of InstructGPT: pretraining, fine-tuning on demonstrations, a reward model from
    people's rankings, and PPO with the pretraining mix; then without the mix, and without the
    KL penalty. It ends with a table of claims, each beside the paper's number, and a report.
    Without --out it writes to runs/demo, or to the next free runs/demo-2, ...
    """
    # Before torch is imported. Threads that spin while they wait made a training step 17 times
    # slower when another process wanted one of two cores; asleep they cost a quarter of the speed
    # of a quiet machine (both measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    if quick and check:
        raise click.UsageError(
            "--quick learns too little for the claims to hold, so there is nothing to check. Leave "
            "out --quick or --check."
        )
    if seed is not None and any(one.startswith("seed=") for one in overrides):
        raise click.UsageError("the seed is given twice, as --seed and as seed=N; give one.")
    given = (*(QUICK if quick else ()), *((f"seed={seed}",) if seed is not None else ()))
    choice = PluginChoice.of(ctx, plugin, no_plugin)
    options = RunOptions(out, None, resume, dry_run, quiet)
    check_out(options)
    if recipe is not None or config is not None:
        if quick or check:
            raise click.UsageError(
                "--quick and --check are for the recipe miniworld; leave --recipe and --config out."
            )
        train(None, Request(recipe, config, (*given, *overrides), choice), options)
        return
    root = Path(out) if out is not None else Path("runs/demo")
    if out is None and not dry_run:
        root = newest_directory(root) if resume else free_directory(root)
    options = replace(options, out=str(root))
    name = None if resume else RECIPE
    request = with_own_config(Request(name, None, (*given, *overrides), choice), options)
    if dry_run:
        train(None, request, options)
        return
    failing = _run(request, root, resume, quiet)
    if check and failing:
        raise click.ClickException(f"{len(failing)} claims do not hold: {'; '.join(failing)}")


def _run(request: Request, root: Path, resume: bool, quiet: bool) -> list[str]:
    """Run the pipeline and show the claims; returns those that do not hold."""
    from fairlead.ui import Display
    from fairlead_plugins.miniworld.report import CLAIMS, COLUMNS, read_claims, rows

    config, plugins = request.resolve()
    stages = [name for name, spec in config.stages.items() if spec.name == "miniworld_claims"]
    if not stages:
        raise ConfigError(
            f"{root} holds a run without a stage miniworld_claims, so it is none of the demo's. Go "
            "on with it by `fairlead pipeline --resume`, or give another --out."
        )
    path = root / stages[0] / CLAIMS

    def show(summaries: dict[str, Any], display: Display) -> None:
        claims = read_claims(path)
        display.table("What came of the paper's claims", COLUMNS, rows(claims))
        if note := getattr(config.stages[stages[0]].config, "note", ""):
            display.note(note)

    run_and_report(config, plugins, None, root, resume, Display(quiet=quiet), show)
    return [claim.claim for claim in read_claims(path) if claim.holds is False]


def newest_directory(wanted: Path) -> Path:
    """Return the last of ``NAME``, ``NAME-2``, ... that holds a run; ``NAME`` where none does."""
    free = free_directory(wanted)
    number = int(free.name.removeprefix(f"{wanted.name}-")) - 1 if free != wanted else 1
    return wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")


def free_directory(wanted: Path) -> Path:
    """Return the directory, or the first of ``NAME-2``, ``NAME-3``, ... that holds no run."""
    number, place = 1, wanted
    while (place / MANIFEST).exists():
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number}")
    return place
