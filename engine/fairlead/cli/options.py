"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fairlead.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from fairlead.config import RunConfig
    from fairlead.plugins import Plugins

F = TypeVar("F", bound=Callable[..., Any])
CONFIG_FILE = "config.yaml"


def plugin_options(**settings: Any) -> Callable[[F], F]:
    """Add ``--plugin`` and ``--no-plugin``; ``settings`` go to both options."""

    def decorate(function: F) -> F:
        without = click.option(
            "--no-plugin",
            "no_plugin",
            multiple=True,
            metavar="NAME",
            help="Leave this plugin out; may be given several times.",
            **settings,
        )
        extra = click.option(
            "--plugin",
            "plugin",
            multiple=True,
            metavar="MODULE|FILE.py",
            help="Load this plugin too; may be given several times.",
            **settings,
        )
        return extra(without(function))

    return decorate


def examples(*lines: str) -> str:
    """Return the examples that end a command's help, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def config_options(function: F) -> F:
    """Add what names a configuration: ``--recipe``, ``--config``, overrides and plugins."""
    recipe = click.option(
        "--recipe", metavar="NAME", help="A named recipe; `fairlead recipes list` shows them."
    )
    config = click.option("--config", metavar="FILE", help="A configuration of your own, YAML.")
    overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    return recipe(config(plugin_options()(overrides(function))))


@dataclass(frozen=True)
class PluginChoice:
    """Which plugins the command line asks for.

    Attributes:
        extra: Modules and files to load (``--plugin``), before the command's name or after.
        exclude: Names to leave out (``--no-plugin``).
    """

    extra: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, ctx: click.Context, extra: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> PluginChoice:
        """Join what was given before the command's name with what was given after it."""
        before = ctx.find_root().obj or {}
        return cls(
            distinct([*before.get("plugin", ()), *extra]),
            tuple(dict.fromkeys([*before.get("no_plugin", ()), *exclude])),
        )

    def load(self, more: Sequence[str] = ()) -> Plugins:
        """Load the installed plugins, those asked for, and ``more``."""
        from fairlead.plugins import load_plugins

        return load_plugins(distinct([*self.extra, *more]), self.exclude)


def distinct(arguments: Sequence[str]) -> tuple[str, ...]:
    """Drop a plugin named twice, by its module or by whatever path to its file."""
    by_place: dict[str, str] = {}
    for argument in arguments:
        place = str(Path(argument).resolve()) if argument.endswith(".py") else argument
        by_place.setdefault(place, argument)
    return tuple(by_place.values())


def warn_broken(plugins: Plugins) -> None:
    """Say on stderr which plugins could not be loaded, a line each."""
    for info in plugins.broken:
        cause = " ".join(info.error.split())
        click.echo(f"warning: {info} could not be loaded: {cause}", err=True)


def find_recipes(plugins: Plugins) -> dict[str, tuple[Path, str]]:
    """Return every recipe by name: its file, and the plugin that brings it.

    Raises:
        PluginError: When a recipe is no file.
    """
    found = {}
    for name in plugins.registry.names("recipes"):
        recipe = plugins.registry.get("recipes", name)
        path = Path(recipe.factory)
        if not path.is_file():
            raise PluginError(
                f"{recipe.owner} registers the recipe {name!r} as {path}, which is no file. "
                "Install the plugin again, or leave it out with --no-plugin."
            )
        found[name] = (path, recipe.owner)
    return found


def recipe_path(plugins: Plugins, name: str) -> Path:
    """Return a recipe's file.

    Raises:
        ConfigError: When there is no recipe of that name; lists what there is.
    """
    plugins.registry.get("recipes", name)
    return find_recipes(plugins)[name][0]


@dataclass(frozen=True)
class Request:
    """What a command line asks to be configured.

    Attributes:
        recipe: ``--recipe``.
        config: ``--config``.
        overrides: ``key=value`` arguments.
        choice: The plugins.
    """

    recipe: str | None
    config: str | None
    overrides: tuple[str, ...]
    choice: PluginChoice

    def resolve(self) -> tuple[RunConfig, Plugins]:
        """Load the plugins and build the configuration.

        The plugins that the configuration lists are loaded as if given with ``--plugin``;
        those given are added to its list, so that the run's own copy of it is whole.

        Raises:
            UsageError: Unless exactly one of ``--recipe`` and ``--config`` is given.
            ConfigError: When the configuration is not valid.
        """
        from fairlead.config import build_config

        if (self.recipe is None) == (self.config is None):
            raise click.UsageError(
                "give exactly one of --recipe NAME and --config FILE. `fairlead recipes list` "
                "shows the recipes; `fairlead recipes copy NAME` makes a file of one."
            )
        if self.config is not None:
            raw = self._read(Path(self.config))
            plugins = self.choice.load(raw["plugins"])
        else:
            plugins = self.choice.load()  # a recipe comes from a plugin
            raw = self._read(recipe_path(plugins, str(self.recipe)))
            plugins.load(raw["plugins"][len(self.choice.extra) :], self.choice.exclude)
        warn_broken(plugins)
        return build_config(raw, plugins.registry), plugins

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a file and apply the overrides; ``plugins`` holds all, those given first."""
        from fairlead.config import apply_overrides, read_config_file

        raw = apply_overrides(read_config_file(path), self.overrides)
        listed = raw.get("plugins") or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ConfigError(
                f"plugins: {listed!r} is not a list of modules or .py files, such as "
                "[my_plugin, ./rewards.py]."
            )
        return {**raw, "plugins": list(distinct([*self.choice.extra, *listed]))}
