"""Named components: what each plugin registered, who owns it, and how to find it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fairlead.errors import ConfigError, PluginError, did_you_mean, listing

Register = Callable[[str, Any], None]

KINDS: dict[str, str] = {
    "stages": "stage",
    "data_sources": "data source",
    "reward_models": "reward",
    "algorithms": "algorithm",
    "losses": "loss",
    "rollout_backends": "rollout backend",
    "kernels": "kernel",
    "optimizers": "optimizer",
    "evaluators": "evaluator",
    "loggers": "logger",
    "recipes": "recipe",
    "commands": "command",
}
"""Kind, as in the hook ``register_KIND``, and what to call one of it.

A plugin that declares a hook ``register_OTHERS`` of its own adds the kind ``others``.
"""

LOSS_ROLES = ("policy", "value", "preference", "auxiliary")


@dataclass(frozen=True, slots=True)
class Component:
    """One registered component.

    Attributes:
        kind: A key of `Registry.kinds`.
        name: The name a configuration uses.
        factory: A class, a path or a click command; or ``"module:attribute"``.
        owner: The plugin that registered it, with its distribution and version.
    """

    kind: str
    name: str
    factory: Any
    owner: str

    def load(self) -> Any:
        """Return the factory, importing it when it was given as ``"module:attribute"``.

        Raises:
            PluginError: When the module or the attribute cannot be imported.
        """
        if self.kind == "recipes" or not isinstance(self.factory, str):
            return self.factory
        module_name, _, attribute = self.factory.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"the {singular(self.kind)} {self.name!r} of {self.owner} cannot be loaded from "
                f"{self.factory!r}: {error}. Install what it needs, or choose another one."
            ) from error


def singular(kind: str) -> str:
    """Return what to call one component of a kind."""
    return KINDS.get(kind) or kind.removesuffix("s").replace("_", " ")


class Registry:
    """The components of all loaded plugins.

    Attributes:
        absent: Plugins that could not be loaded, with the cause: what they bring is missed.
        kinds: Kinds of component: the engine's (`KINDS`), then those that plugins add.
    """

    def __init__(self) -> None:
        self.absent: list[str] = []
        self.kinds: list[str] = list(KINDS)
        self._components: dict[str, dict[str, Component]] = {kind: {} for kind in KINDS}

    def add_kind(self, kind: str) -> None:
        """Make room for a kind of component that a plugin brings."""
        self.kinds.append(kind)
        self._components[kind] = {}

    def bound(self, kind: str, owner: str) -> Register:
        """Return the ``register(name, factory)`` that one plugin's hook is handed."""

        def register(name: str, factory: Any) -> None:
            self.add(Component(kind, name, factory, owner))

        return register

    def add(self, component: Component) -> None:
        """Add a component.

        Raises:
            PluginError: When the name is taken, or a loss names no role.
        """
        there = self._components[component.kind].get(component.name)
        what = singular(component.kind)
        if there is not None:
            raise PluginError(
                f"two plugins register a {what} named {component.name!r}: {there.owner} and "
                f"{component.owner}. Leave one out with --no-plugin, or rename one."
            )
        role = component.name.partition("/")[0]
        if component.kind == "losses" and (
            role not in LOSS_ROLES or not component.name.partition("/")[2]
        ):
            raise PluginError(
                f"{component.owner} registers the loss {component.name!r}; a loss is registered "
                f"as ROLE/NAME with a role of {', '.join(LOSS_ROLES)}."
            )
        self._components[component.kind][component.name] = component

    def remove(self, owner: str) -> None:
        """Forget everything one plugin registered."""
        for components in self._components.values():
            for name in [n for n, component in components.items() if component.owner == owner]:
                del components[name]

    def get(self, kind: str, name: str) -> Component:
        """Return a component by name.

        Raises:
            ConfigError: When there is none; lists what there is.
        """
        found = self._components[kind].get(name)
        if found is None:
            names = self._components[kind]
            raise ConfigError(
                f"there is no {singular(kind)} named {name!r}{did_you_mean(name, names)}. "
                f"There are: {listing(names)}. Others come with a plugin (--plugin)."
                + "".join(
                    f" It may belong to a plugin that is broken: {one}" for one in self.absent
                )
            )
        return found

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind, sorted."""
        return sorted(self._components[kind])

    def __iter__(self) -> Iterator[Component]:
        for components in self._components.values():
            yield from components.values()
