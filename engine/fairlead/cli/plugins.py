"""``fairlead plugins``: which plugins there are, and what each brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.options import PluginChoice, examples, plugin_options
from fairlead.errors import EXIT_CONFIG, PluginError, did_you_mean, listing

if TYPE_CHECKING:
    from fairlead.plugins import PluginInfo, Plugins


@click.group(
    epilog=examples(
        "fairlead plugins list",
        "fairlead plugins info ppo",
        "fairlead plugins info my_rewards --plugin ./my_rewards.py",
    )
)
def plugins() -> None:
    """See which plugins are loaded and what they bring."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@plugin_options()
@click.pass_context
def list_(
    ctx: click.Context, as_json: bool, plugin: Sequence[str], no_plugin: Sequence[str]
) -> None:
    """List the plugins; one that cannot be loaded is listed with the reason."""
    from fairlead.cli.output import print_json
    from fairlead.ui import Display

    loaded = PluginChoice.of(ctx, plugin, no_plugin).load()
    rows = [describe(loaded, info) for info in loaded.infos]
    if as_json:
        print_json(rows)
        return
    Display().table(
        "",
        ("plugin", "distribution", "version", "brings"),
        [(row["name"], row["distribution"], row["version"], _brings(row)) for row in rows],
    )


@plugins.command()
@click.argument("name")
@plugin_options()
@click.pass_context
def info(ctx: click.Context, name: str, plugin: Sequence[str], no_plugin: Sequence[str]) -> None:
    """Show where a plugin comes from and what it brings."""
    from fairlead.ui import Display

    loaded = PluginChoice.of(ctx, plugin, no_plugin).load()
    chosen = next((one for one in loaded.infos if one.name == name), None)
    if chosen is None:
        names = [one.name for one in loaded.infos]
        raise PluginError(
            f"there is no plugin named {name!r}{did_you_mean(name, names)}. Plugins: "
            f"{listing(names)}. --plugin loads a module or a file besides them."
        )
    row = describe(loaded, chosen)
    rows = [(key, row[key]) for key in ("name", "about", "distribution", "version", "origin")]
    rows += [(kind, ", ".join(names)) for kind, names in row["registers"].items()]
    rows.append(("hooks", ", ".join(row["hooks"]) or "none"))
    if row["error"]:
        rows.append(("error", row["error"]))
    Display().table("", ("what", "value"), rows)
    if row["error"]:
        ctx.exit(EXIT_CONFIG)


def describe(plugins: Plugins, info: PluginInfo) -> dict[str, Any]:
    """Return what is known of a plugin, as plain data."""
    module = None if info.error else plugins.manager.get_plugin(info.name)
    callers = (plugins.manager.get_hookcallers(module) if module is not None else None) or []
    registers: dict[str, list[str]] = {}
    for component in plugins.registry:
        if not info.error and component.owner == str(info):
            registers.setdefault(component.kind, []).append(component.name)
    return {
        "name": info.name,
        "about": ((module.__doc__ if module is not None else "") or "").strip().split("\n")[0],
        "distribution": info.distribution,
        "version": info.version,
        "origin": info.origin,
        "registers": {kind: sorted(names) for kind, names in registers.items()},
        "hooks": sorted(c.name for c in callers if not c.name.startswith("register_")),
        "error": info.error,
    }


def _brings(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"cannot be loaded: {row['error']}"
    brought = [f"{kind.replace('_', ' ')}: {', '.join(n)}" for kind, n in row["registers"].items()]
    if row["hooks"]:
        brought.append(f"hooks: {', '.join(row['hooks'])}")
    return "; ".join(brought) or "nothing"
