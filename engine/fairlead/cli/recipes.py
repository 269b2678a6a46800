"""``fairlead recipes``: ready-made configurations to run, read and copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fairlead.cli.options import PluginChoice, examples, find_recipes, plugin_options, recipe_path
from fairlead.errors import ConfigError


@click.group(
    epilog=examples(
        "fairlead recipes list",
        "fairlead recipes copy hh my.yaml",
        "fairlead pipeline --config my.yaml",
    )
)
def recipes() -> None:
    """List, show and copy ready-made configurations."""


@recipes.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@plugin_options()
@click.pass_context
def list_(
    ctx: click.Context, as_json: bool, plugin: Sequence[str], no_plugin: Sequence[str]
) -> None:
    """List the recipes, with a line about each."""
    from fairlead.cli.output import print_json
    from fairlead.ui import Display

    found = find_recipes(PluginChoice.of(ctx, plugin, no_plugin).load())
    rows = [(name, about(path), owner, path) for name, (path, owner) in sorted(found.items())]
    if as_json:
        print_json(
            [
                {"name": name, "about": text, "from": owner, "path": str(path)}
                for name, text, owner, path in rows
            ]
        )
        return
    Display().table("", ("recipe", "what it does", "from"), [row[:3] for row in rows])


@recipes.command()
@click.argument("name")
@plugin_options()
@click.pass_context
def show(ctx: click.Context, name: str, plugin: Sequence[str], no_plugin: Sequence[str]) -> None:
    """Print a recipe, comments and all."""
    click.echo(_text(ctx, name, plugin, no_plugin), nl=False)


@recipes.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@plugin_options()
@click.pass_context
def copy(
    ctx: click.Context,
    name: str,
    file: str | None,
    force: bool,
    plugin: Sequence[str],
    no_plugin: Sequence[str],
) -> None:
    """Copy a recipe to FILE, to make it your own.

    FILE is NAME.yaml in this directory unless you give another one.
    """
    text = _text(ctx, name, plugin, no_plugin)
    target = Path(file) if file is not None else Path(f"{name.replace('/', '-')}.yaml")
    if target.is_dir():
        target = target / f"{name.replace('/', '-')}.yaml"
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no directory; make it first, or give another FILE.")
    try:
        with target.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{target} exists already. Give another FILE, or --force to replace it."
        ) from None
    click.echo(str(target))


def _text(ctx: click.Context, name: str, plugin: Sequence[str], no_plugin: Sequence[str]) -> str:
    plugins = PluginChoice.of(ctx, plugin, no_plugin).load()
    return recipe_path(plugins, name).read_text(encoding="utf-8")


def about(path: Path) -> str:
    """Return what a recipe's first comment line says of it."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            return line.removeprefix("#").strip() if line.startswith("#") else ""
    return ""
