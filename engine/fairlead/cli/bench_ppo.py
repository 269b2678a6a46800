"""``fairlead bench ppo``: a step of the RL stage, by phase."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.bench_models import (
    MOST_ROUNDS,
    case_options,
    check_memory,
    machine,
    number,
    size_of,
    write,
)
from fairlead.cli.options import PluginChoice, examples, plugin_options, warn_broken
from fairlead.errors import ConfigError, Stopped

if TYPE_CHECKING:
    from fairlead.benchmark.ppo import PpoCase


@click.command(
    epilog=examples(
        "fairlead bench ppo",
        "fairlead bench ppo --precision bfloat16 --reuse",
        "fairlead bench ppo --layers 2 --hidden 128 --heads 4 --keep runs/bench",
    )
)
@number("batch", 64, "Episodes a step.")
@number("minibatches", 8, "Optimizer steps a step.")
@case_options
@click.option("--reuse", is_flag=True, help="Take the rollout's log-probs for the old policy's.")
@number("steps", 3, "Measured, after one that warms up.", MOST_ROUNDS)
@click.option("--keep", metavar="DIR", help="Leave models, prompts and the run in a new directory.")
@plugin_options()
@click.pass_context
def ppo(
    ctx: click.Context,
    /,
    json_file: str | None,
    keep: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    **wanted: Any,
) -> None:
    """Measure a PPO step by phase; four random models of one size."""
    from fairlead.benchmark.ppo import PpoCase, least_memory
    from fairlead.cli.bench_files import Files

    Files.checked(json_file, None, None)
    if keep and Path(keep).exists():
        raise ConfigError(f"--keep {keep}: it is there already. Give a directory that is not.")
    if wanted["batch"] % wanted["minibatches"]:
        raise ConfigError(
            f"--batch {wanted['batch']} is no multiple of --minibatches {wanted['minibatches']}. "
            "Give one that is."
        )
    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    warn_broken(plugins)
    if wanted["family"] == "qwen2":
        raise ConfigError(
            "--family qwen2: beside such a model transformers loads a tokenizer of its own, not "
            "the one made for this. Give gpt2 or opt; `fairlead bench generate` takes qwen2."
        )
    case = PpoCase(size=size_of(wanted), **wanted)
    check_memory(*least_memory(case), case.device)
    if keep:
        try:
            Path(keep).mkdir(parents=True)
        except OSError as error:
            raise ConfigError(
                f"--keep {keep}: it cannot be made: {error.strerror}. Give another directory."
            ) from error
    with tempfile.TemporaryDirectory() as scratch:
        _measure(case, Path(keep or scratch), plugins, json_file)


def _measure(case: PpoCase, at: Path, plugins: Any, file: str | None) -> None:
    import torch

    from fairlead.benchmark.ppo import measure, prepare
    from fairlead.strategy import SingleDevice
    from fairlead.ui import Display

    display = Display()
    device = SingleDevice(case.device).device
    limits, facts = machine(device, case.precision, display)
    prepare(case, at)
    try:
        found = measure(case, at, plugins, display)
    except Stopped as stopped:  # there is nothing that could be resumed
        raise KeyboardInterrupt from stopped
    floor = found.matrix_flops / limits.gemm[getattr(torch, case.precision)]
    rest = found.seconds - sum(found.phases.values())
    lines = [
        (name, f"{seconds:.2f}", _gib(found.peak_gib.get(name)))
        for name, seconds in [*found.phases.items(), ("the rest", rest)]
    ]
    peak = max(found.peak_gib.values(), default=None)
    display.table(
        f"PPO step: {case.batch} episodes of {case.prompt}+{found.response_tokens:.0f} tokens, "
        f"{case.minibatches} minibatches, {case.precision} on {device.type}",
        ("", "seconds", "peak GiB"),
        [*lines, ("together", f"{found.seconds:.2f}", _gib(peak))],
    )
    display.note(
        f"matrix products alone would take {floor:.2f} s at the measured "
        f"{limits.gemm[getattr(torch, case.precision)] / 1e9:.0f} GFLOP/s: "
        f"{100 * floor / found.seconds:.0f} % of the step"
    )
    record = {
        "case": asdict(case),
        "result": found.as_dict(),
        "floor_seconds": floor,
        "machine": limits.as_dict(),
        "provenance": facts,
    }
    write(file, record, display)


def _gib(peak: float | None) -> str:
    return "-" if peak is None else f"{peak:.2f}"
