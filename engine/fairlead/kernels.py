"""Handing the kernels that plugins bring to the kernel library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairlead.errors import PluginError
from fairlead.plugins import Plugins
from fairlead.registry import Component
from fairlead_kernels import KernelError, list_implementations, register_implementation


def _always(*_: Any, **__: Any) -> None:
    """No objection: the kernel runs on any input."""


@dataclass(frozen=True)
class Kernel:
    """A kernel implementation, as a plugin's ``register_kernels`` factory returns it.

    Attributes:
        function: Called with the operation's arguments, tensors already checked.
        available: Returns None when it can run on this machine, else the reason why not.
        supports: Called with the arguments; returns None when it can run on them.
        priority: ``impl="auto"`` takes the highest; the reference has 0, ours 100.
    """

    function: Callable[..., Any]
    available: Callable[[], str | None] = _always
    supports: Callable[..., str | None] = _always
    priority: int = 50


def _made(component: Component) -> Kernel:
    factory = component.load()
    found = factory() if callable(factory) else factory
    if isinstance(found, Kernel):
        return found
    raise PluginError(
        f"{component.owner}: what is registered as the kernel {component.name!r} must be a factory "
        f"that returns a fairlead.kernels.Kernel, such as lambda: Kernel(function). This gave "
        f"{type(found).__name__}."
    )


def install_kernels(plugins: Plugins) -> None:
    """Make every ``OP/NAME`` that plugins registered selectable; safe to call again.

    Raises:
        PluginError: When an operation does not exist or a name is taken.
    """
    there = {(row.op, row.impl): row.owner for row in list_implementations()}
    for component in plugins.registry:
        if component.kind != "kernels":
            continue
        op, _, name = component.name.partition("/")
        if not name:
            raise PluginError(
                f"{component.owner}: the kernel {component.name!r} is registered without its "
                "operation. Register it as OP/NAME, such as 'whiten/mine'."
            )
        if there.get((op, name)) == component.owner:
            continue
        kernel = _made(component)
        try:
            register_implementation(
                op,
                name,
                kernel.function,
                available=kernel.available,
                supports=kernel.supports,
                priority=kernel.priority,
                owner=component.owner,
            )
        except KernelError as error:
            raise PluginError(f"{component.owner}: {error}") from error
