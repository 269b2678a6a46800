"""``fairlead demo``: the whole pipeline on the tiny world, and what came of it in plain words."""

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
    run_and_report,
    run_options,
    train,
    with_own_config,
)

if TYPE_CHECKING:
    from fairlead.ui import Display

RECIPE = "demo"
MANIFEST = "run.json"
SAMPLES = "samples.jsonl"

QUICK = (
    "pretrain.source.documents=1500",
    "pretrain.steps=40",
    "pretrain.evaluate_every=20",
    "sft.source.count=120",
    "sft.epochs=1",
    "rm.source.count=120",
    "ppo.prompts.count=300",
    "ppo.auxiliary.0.source.documents=1500",
    "ppo.evaluators.0.prompts.count=300",
    "ppo.evaluators.0.count=24",
    "ppo.iterations=3",
    "ppo.batch_size=32",
    "ppo.evaluate_every=3",
    "compare.prompts.count=300",
    "compare.count=6",
    "judge.prompts.count=300",
    "judge.count=24",
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
@click.pass_context
def demo(
    ctx: click.Context,
    seed: int | None,
    quick: bool,
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
    """Train a small language model from nothing to PPO-ptx, in a few minutes.

    A made-up world of facts and misconceptions is small enough for a laptop to go through the
    whole of InstructGPT: pretraining, fine-tuning on demonstrations, a reward model from
    people's rankings, and PPO with the pretraining mix. It ends with a table and a report.
    Without --out it writes to runs/demo, or to the next free runs/demo-2, ...
    """
    # Before torch is imported. Threads that spin while they wait made a training step 17 times
    # slower when another process wanted one of two cores; asleep they cost a quarter of the speed
    # of a quiet machine (both measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    given = (*(QUICK if quick else ()), *((f"seed={seed}",) if seed is not None else ()))
    choice = PluginChoice.of(ctx, plugin, no_plugin)
    options = RunOptions(out, None, resume, dry_run, quiet)
    if recipe is not None or config is not None:
        if quick:
            raise click.UsageError(
                "--quick shortens the recipe demo; leave --recipe and --config out."
            )
        train(None, Request(recipe, config, (*given, *overrides), choice), options)
        return
    root = Path(out) if out is not None else Path("runs/demo")
    if out is None and not resume and not dry_run:
        root = free_directory(root)
    options = replace(options, out=str(root))
    name = None if resume else RECIPE
    request = with_own_config(Request(name, None, (*given, *overrides), choice), options)
    if dry_run:
        train(None, request, options)
        return
    _run(request, root, resume, quiet)


def _run(request: Request, root: Path, resume: bool, quiet: bool) -> None:
    from fairlead.ui import Display
    from fairlead_plugins.miniworld.results import judged_rows, training_rows

    config, plugins = request.resolve()

    def show(summaries: dict[str, Any], display: Display) -> None:
        rows = [*training_rows(summaries), *judged_rows(root / "judge" / SAMPLES, config.seed)]
        display.table("What came of it", ("what was measured", "result"), rows)

    run_and_report(config, plugins, None, root, resume, Display(quiet=quiet), show)


def free_directory(wanted: Path) -> Path:
    """Return the directory, or the first of ``NAME-2``, ``NAME-3``, ... that holds no run."""
    number, place = 1, wanted
    while (place / MANIFEST).exists():
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number}")
    return place
