"""The list of commands, each imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.options import PluginChoice, plugin_options, warn_broken
from fairlead.errors import PluginError, did_you_mean
from fairlead.version import __version__

if TYPE_CHECKING:
    from fairlead.plugins import Plugins

CORE = {
    "pipeline": "fairlead.cli.train:pipeline",
    "pretrain": "fairlead.cli.train:pretrain",
    "sft": "fairlead.cli.train:sft",
    "rm": "fairlead.cli.train:rm",
    "ppo": "fairlead.cli.train:ppo",
    "generate": "fairlead.cli.generate:generate",
    "report": "fairlead.cli.report:report",
    "recipes": "fairlead.cli.recipes:recipes",
    "config": "fairlead.cli.config:config",
    "plugins": "fairlead.cli.plugins:plugins",
    "kernels": "fairlead.cli.kernels:kernels",
    "bench": "fairlead.cli.bench:bench",
    "env": "fairlead.cli.env:env",
}
"""The core's own commands, in the order people meet them."""


class Commands(click.Group):
    """The core's commands, and those that plugins register.

    Plugins are loaded to list all commands and to find one that is not the core's; the help
    of a core command loads none.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the core's commands, then the plugins'."""
        plugins = _plugins(ctx)
        extra = plugins.registry.names("commands") if plugins is not None else []
        return [*CORE, *(name for name in extra if name not in CORE)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module; None when there is none."""
        if cmd_name in CORE:
            module, _, attribute = CORE[cmd_name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        plugins = _plugins(ctx)
        if plugins is None or cmd_name not in plugins.registry.names("commands"):
            return None
        component = plugins.registry.get("commands", cmd_name)
        found = component.load()
        if not isinstance(found, click.Command):
            raise PluginError(
                f"{component.owner} registers the command {cmd_name!r} as {found!r}, which is no "
                "click command. Correct the plugin, or leave it out with --no-plugin."
            )
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; one that cannot be imported is listed with the reason."""
        core: list[tuple[str, str]] = []
        extra: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except PluginError as error:
                extra.append((name, f"(broken) {error}"))
                continue
            if command is not None and not command.hidden:
                line = (name, command.get_short_help_str(limit=formatter.width - 16))
                (core if name in CORE else extra).append(line)
        for title, lines in (("Commands", core), ("Commands of plugins", extra)):
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run, or say which one was meant.

        Raises:
            UsageError: When there is no such command.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            plugins = _plugins(ctx)
            if plugins is not None:
                warn_broken(plugins)
            raise click.UsageError(
                f"there is no command {name!r}{did_you_mean(name, self.list_commands(ctx))}.", ctx
            )
        return super().resolve_command(ctx, args)


def _plugins(ctx: click.Context) -> Plugins | None:
    """Load the plugins once; None, with a warning, when they cannot be loaded at all.

    Two clashing plugins must not take the help away that says how to leave one out.
    """
    root = ctx.find_root()
    if "plugins" not in root.meta:
        root.meta["plugins"] = None
        try:
            root.meta["plugins"] = PluginChoice.of(ctx).load()
        except PluginError as error:
            click.echo(f"warning: {error}", err=True)
    found: Plugins | None = root.meta["plugins"]
    return found


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Keep the choice of plugins where `--help`, which ends the parsing, finds it."""
    ctx.ensure_object(dict)[param.name] = value
    return value


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `fairlead demo`, or `fairlead recipes list`. "
    "Exit codes: 0 done, 1 a check failed or something unforeseen, 2 usage or configuration, "
    "3 data, 4 a loss became NaN or infinite, "
    "5 stopped by a signal with a checkpoint written.",
)
@plugin_options(callback=_remember, is_eager=True, expose_value=False)
@click.version_option(__version__, prog_name="fairlead", message="%(prog)s %(version)s")
def fairlead() -> None:
    """Train language models from human preferences: InstructGPT, stage by stage.

    Fairlead takes a language model through supervised fine-tuning, a reward model and PPO
    with pretraining mix. Everything a researcher would change is a plugin.
    """
