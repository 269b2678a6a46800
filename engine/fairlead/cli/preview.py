"""``--dry-run``: what each stage would read, train on and need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fairlead.cli.output import is_plain, marked

if TYPE_CHECKING:
    from fairlead.config import RunConfig
    from fairlead.plugins import Plugins
    from fairlead.stages import Preview
    from fairlead.ui import Display


def show_previews(
    config: RunConfig, plugins: Plugins, only: list[str] | None, out: Path, display: Display
) -> None:
    """Resolve the stages without training and print what was found.

    Args:
        config: The run's configuration.
        plugins: The loaded plugins.
        only: Names of stages; default all.
        out: Where the run would write; finished stages there are built on.
        display: Prints the tables.
    """
    from fairlead.runner import preview

    for name, found in preview(config, plugins, only, out if out.is_dir() else None).items():
        _show(name, config.stages[name].name, found, display)
    click.echo("Dry run: nothing was trained and nothing was written.", err=True)


def _show(name: str, component: str, found: Preview, display: Display) -> None:
    title = name if name == component else f"{name} ({component})"
    display.table(
        f"Stage {title}", ("what", "value"), [(k, _fact(v)) for k, v in found.facts.items()]
    )
    if found.sample:
        plain = is_plain()
        how = "in [[ ]]" if plain else "bold and underlined"
        trained = any(counts for _, counts in found.sample)
        title = f"A sample; what is trained on is {how}" if trained else "A sample"
        click.echo(f"\n{title}:\n\n{marked(found.sample, plain=plain)}\n")
    if found.memory_gib:
        rows = [(part, _gib(gib)) for part, gib in found.memory_gib.items()]
        display.table("Memory, estimated", ("part", "GiB"), rows)
    click.echo()


def _gib(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else "under 0.01"


def _fact(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
