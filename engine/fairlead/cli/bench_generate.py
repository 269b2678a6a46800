"""``fairlead bench generate``: the native rollout backend beside transformers' generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

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


@click.command(
    epilog=examples(
        "fairlead bench generate",
        "fairlead bench generate --rows 64 --response 256 --mean-length 64",
        "fairlead bench generate --rows 1 --json benchmarks/results/one-row.json",
    )
)
@number("rows", 64, "Prompts.")
@case_options
@number("rounds", 5, "Measurements of each, after one that warms up.", MOST_ROUNDS)
@plugin_options()
@click.pass_context
def generate(
    ctx: click.Context,
    /,
    json_file: str | None,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
    **wanted: Any,
) -> None:
    """Measure generation beside transformers, on a random model."""
    import torch

    from fairlead.benchmark.generate import (
        GenerateCase,
        compare,
        floor_seconds,
        least_memory,
        summary,
    )
    from fairlead.cli.bench_files import Files
    from fairlead.kernels import install_kernels
    from fairlead.strategy import SingleDevice
    from fairlead.ui import Display

    Files.checked(json_file, None, None)
    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    warn_broken(plugins)
    install_kernels(plugins)
    size = size_of(wanted)
    display = Display()
    case = GenerateCase(size=size, **wanted)
    check_memory(*least_memory(case), case.device)
    device = SingleDevice(case.device).device
    limits, facts = machine(device, case.precision, display)
    results = []
    with display.stage("bench generate", "measurement", 3 * case.rounds) as progress:
        for found in compare(case):
            results.append(found)
            progress.advance(len(results), {})
    rows = summary(results)
    flops = limits.gemm[getattr(torch, case.precision)]
    ours = rows[0]
    lines = []
    for row in rows:
        floor = row.tokens / floor_seconds(case, row.tokens, flops, limits.copy)
        lines.append(
            (
                row.provider,
                f"{row.tokens_per_second:,.0f}",
                f"{row.slowest:,.0f} - {row.fastest:,.0f}",
                f"{100 * row.tokens_per_second / floor:.0f} %",
                "" if row is ours else f"{ours.tokens_per_second / row.tokens_per_second:.2f}x",
            )
        )
    lengths = "" if case.mean_length is None else f", mean {case.mean_length}"
    display.table(
        f"{case.rows} prompts of {case.prompt} tokens, up to {case.response} new{lengths}, "
        f"{case.precision} on {device.type}",
        ("", "tokens/s", "range", "of the floor", "native, times faster"),
        lines,
    )
    record = {
        "case": asdict(case),
        "rows": [asdict(row) for row in rows],
        "machine": limits.as_dict(),
        "provenance": facts,
    }
    write(json_file, record, display)
