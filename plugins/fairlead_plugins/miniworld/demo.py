"""``fairlead demo``: the whole pipeline on the tiny world, and what came of it in plain words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from fairlead.cli.options import PluginChoice, Request, plugin_options
from fairlead.errors import Stopped

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


@click.command()
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Decides the world, the data, the first weights and every draw.",
)
@click.option(
    "--out",
    metavar="DIR",
    default="runs/demo",
    show_default=True,
    help="Where to write everything; the next free DIR-2, DIR-3, ... if it holds a run.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A few steps of everything, in under a minute: shows that it runs, not that it learns.",
)
@plugin_options()
@click.pass_context
def demo(
    ctx: click.Context,
    seed: int,
    out: str,
    quick: bool,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
) -> None:
    """Train a small language model from nothing to PPO-ptx, in a few minutes.

    A made-up world of facts and misconceptions is small enough for a laptop to go through the
    whole of InstructGPT: pretraining, fine-tuning on demonstrations, a reward model from
    people's rankings, and PPO with the pretraining mix. It ends with a table and a report.
    """
    # Before torch is imported. Threads that spin while they wait made a training step 17 times
    # slower when another process wanted one of two cores; asleep they cost a quarter of the speed
    # of a quiet machine (both measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from fairlead.report import write_report
    from fairlead.runner import run
    from fairlead.ui import Display
    from fairlead_plugins.miniworld.results import judged_rows, training_rows

    overrides = (f"seed={seed}", *(QUICK if quick else ()))
    choice = PluginChoice.of(ctx, plugin, no_plugin)
    config, plugins = Request(RECIPE, None, overrides, choice).resolve()
    display = Display()
    root = free_directory(Path(out))
    if root != Path(out):
        display.note(f"{out} holds a run already; this one goes to {root}.")
    try:
        summaries = run(config, plugins, root, display=display)
    except Stopped as error:
        # `demo` itself has no --resume: the run is an ordinary one.
        raise Stopped(
            f"{str(error).removesuffix(' Go on with --resume.')} Go on with: "
            f"fairlead pipeline --resume --out {root}"
        ) from None
    title = "What came of it" + (" (--quick: too short to learn anything)" if quick else "")
    rows = [*training_rows(summaries), *judged_rows(root / "judge" / SAMPLES, seed)]
    display.table(title, ("what was measured", "result"), rows)
    click.echo(f"report: {write_report(root)}")


def free_directory(wanted: Path) -> Path:
    """Return the directory, or the first of ``NAME-2``, ``NAME-3``, ... that holds no run."""
    number, place = 1, wanted
    while (place / MANIFEST).exists():
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number}")
    return place
