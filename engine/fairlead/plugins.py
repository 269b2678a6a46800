"""Finding plugins, choosing among them, and loading what they register.

Plugins come from three places and are treated alike: the entry-point group
``fairlead.plugins``, ``--plugin module`` and ``--plugin path/to/file.py``. The default
plugins are ordinary entry points of this distribution.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from fairlead import hookspecs
from fairlead.errors import PluginError, did_you_mean, listing
from fairlead.registry import Registry
from fairlead.version import __version__

GROUP = "fairlead.plugins"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin that was found, and what became of it.

    Attributes:
        name: The entry point's name, the module's name or the file's stem.
        origin: The module or file it is imported from.
        distribution: The installed distribution it belongs to, or ``-``.
        version: That distribution's version; for a file, a hash of its content.
        error: Why it could not be loaded; empty when it was.
    """

    name: str
    origin: str
    distribution: str = "-"
    version: str = "-"
    error: str = ""

    def __str__(self) -> str:
        where = self.origin if self.distribution == "-" else f"{self.distribution} {self.version}"
        return f"plugin {self.name!r} ({where})"


class Plugins:
    """The loaded plugins of one process: their hooks and their components."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.registry = Registry()
        self.infos: list[PluginInfo] = []

    @property
    def hook(self) -> Any:
        """The pluggy hook caller: ``plugins.hook.step_finished(...)``."""
        return self.manager.hook

    @property
    def broken(self) -> list[PluginInfo]:
        """Plugins that were found and could not be loaded."""
        return [info for info in self.infos if info.error]

    def chain(self, hook: str, value: Any, argument: str, **others: Any) -> Any:
        """Call a hook whose result replaces one of its arguments, plugin after plugin.

        Args:
            hook: The hook's name.
            value: What the first implementation is given.
            argument: The argument that carries it.
            **others: The remaining arguments.

        Returns:
            What the last implementation returned; ``None`` counts as unchanged.
        """
        # pluggy lists implementations in registration order and calls them in reverse;
        # a chain reads better, and is specified, in the order plugins were loaded.
        impls = getattr(self.hook, hook).get_hookimpls()
        for impl in sorted(impls, key=lambda impl: impl.trylast - impl.tryfirst):
            given = {argument: value, **others}
            changed = impl.function(*(given[name] for name in impl.argnames))
            value = value if changed is None else changed
        return value

    def set_aside(self, info: PluginInfo, error: BaseException) -> None:
        """Note an installed plugin that cannot be loaded; the others go on without it."""
        ours = isinstance(error, PluginError)
        cause = str(error).removeprefix(f"{info} ") if ours else _cause(error)
        broken = replace(info, error=cause)
        self.infos.append(broken)
        self.registry.absent.append(f"{broken}: {cause}")

    def add(self, info: PluginInfo, module: ModuleType) -> None:
        """Register an imported plugin and collect its components; all of it, or nothing.

        Raises:
            PluginError: On a name clash or an unmet version range.
            Exception: What a hook of the plugin raises, or pluggy's complaint about one
                whose arguments are not those of its specification.
        """
        taken = next((i for i in self.infos if i.name == info.name and not i.error), None)
        if taken is not None:
            raise PluginError(
                f"two plugins are named {info.name!r}: {taken} from {taken.origin} and {info} "
                f"from {info.origin}. Rename one, or uninstall it."
            )
        _check_version(info, module)
        try:
            if hasattr(module, "register_hookspecs"):
                self._declare(module.register_hookspecs())
            self.manager.register(module, name=info.name)
            self._refuse_wrappers(info)
            for kind in self.registry.kinds:
                self._collect(kind, info)
        except Exception:
            if self.manager.has_plugin(info.name):
                self.manager.unregister(name=info.name)
            self.registry.remove(str(info))
            raise
        self.infos.append(info)

    def _declare(self, specifications: Any) -> None:
        """Take up a plugin's own hooks; each ``register_KIND`` of them is a kind of component."""
        self.manager.add_hookspecs(specifications)
        for name in dir(specifications):
            kind = name.removeprefix("register_")
            if kind != name and hasattr(self.hook, name) and kind not in self.registry.kinds:
                self.registry.add_kind(kind)
                # A plugin may come before the one whose hook it uses; its faults are its own.
                for info in [one for one in self.infos if not one.error]:
                    try:
                        self._collect(kind, info)
                    except PluginError:
                        raise
                    except Exception as error:
                        self._drop(info, error)

    def _drop(self, info: PluginInfo, error: Exception) -> None:
        """Take a loaded plugin out again and note why."""
        self.manager.unregister(name=info.name)
        self.registry.remove(str(info))
        self.infos.remove(info)
        self.set_aside(info, error)

    def _collect(self, kind: str, info: PluginInfo) -> None:
        """Let one plugin register its components of one kind."""
        for impl in getattr(self.hook, f"register_{kind}").get_hookimpls():
            if impl.plugin_name == info.name:
                impl.function(register=self.registry.bound(kind, str(info)))

    def load(self, arguments: Sequence[str], exclude: Iterable[str] = ()) -> None:
        """Load modules and ``.py`` files given as ``--plugin`` gives them.

        Raises:
            PluginError: When one cannot be loaded: it was asked for.
        """
        excluded = set(exclude)
        for info, source in map(_from_argument, arguments):
            if info.name in excluded:
                continue
            module = _import_argument(source)
            try:
                self.add(info, module)
            except PluginError:
                raise
            except Exception as error:
                raise PluginError(
                    f"--plugin {source}: it cannot be registered: {_cause(error)}."
                ) from error
        self.check_hooks()

    def _refuse_wrappers(self, info: PluginInfo) -> None:
        """A chained hook is called in turn, so there is no call for a wrapper to be around."""
        for impl in self.hook.shape_rewards.get_hookimpls():
            if impl.plugin_name == info.name and (impl.wrapper or impl.hookwrapper):
                raise PluginError(
                    f"{info} implements shape_rewards as a hook wrapper; it must be a plain "
                    "function that returns a rollout or None. Take wrapper=True out."
                )

    def check_hooks(self) -> None:
        """Raise PluginError when a plugin implements a hook that does not exist."""
        specs = {name for name in dir(self.hook) if not name.startswith("_")}
        for name, plugin in self.manager.list_name_plugin():
            for attribute in dir(plugin):
                marked = getattr(getattr(plugin, attribute), f"{hookspecs.PROJECT}_impl", None)
                caller = getattr(self.hook, attribute, None)
                if not marked or marked.get("optionalhook"):
                    continue
                if caller is None or not caller.has_spec():
                    known = [s for s in specs if getattr(self.hook, s).has_spec()]
                    owner = next((info for info in self.infos if info.name == name), name)
                    raise PluginError(
                        f"{owner} implements the hook {attribute!r}, which does not exist"
                        f"{did_you_mean(attribute, known)}. Correct its name, or leave the plugin "
                        f"out with --no-plugin. Hooks: {listing(known)}."
                    )


def _check_version(info: PluginInfo, module: ModuleType) -> None:
    wanted = getattr(module, "FAIRLEAD_REQUIRES", None)
    if wanted is None:
        return
    try:
        fits = SpecifierSet(wanted).contains(__version__, prereleases=True)
    except InvalidSpecifier as error:
        raise PluginError(
            f"{info}: FAIRLEAD_REQUIRES = {wanted!r} is not a version range such as '>=0.1,<0.2'."
        ) from error
    if not fits:
        raise PluginError(
            f"{info} needs fairlead {wanted}; this is {__version__}. Install a version of one "
            "that suits the other, or leave the plugin out with --no-plugin."
        )


def load_plugins(
    extra: Sequence[str] = (), exclude: Iterable[str] = (), only: Sequence[str] | None = None
) -> Plugins:
    """Find, select and load plugins.

    Args:
        extra: Modules or ``.py`` files to load besides the installed ones (``--plugin``).
        exclude: Names to leave out (``--no-plugin``).
        only: Names of installed plugins to take; default: the comma-separated environment
            variable ``FAIRLEAD_PLUGINS``, or all of them where it is unset.

    Returns:
        The loaded plugins. An installed plugin that cannot be imported, that raises while it
        registers or that is for another version is listed in `Plugins.broken` and does not
        stop the others.

    Raises:
        PluginError: When a plugin asked for by name cannot be loaded, a name to leave out
            does not exist, or two plugins clash.
    """
    if only is None and "FAIRLEAD_PLUGINS" in os.environ:
        only = [name.strip() for name in os.environ["FAIRLEAD_PLUGINS"].split(",") if name.strip()]
    points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
    candidates = [(_describe(point), point) for point in points]
    given = [info.name for info, _ in map(_from_argument, extra)]
    found = [info.name for info, _ in candidates] + given
    excluded = set(exclude)
    for name in [*excluded, *(only or ())]:
        if name not in found:
            raise PluginError(
                f"there is no plugin named {name!r}{did_you_mean(name, found)}. "
                f"Found: {listing(found)}."
            )
    plugins = Plugins()
    for info, point in candidates:
        if info.name in excluded or (only is not None and info.name not in only):
            continue
        try:
            module = point.load()
            _check_version(info, module)
        except Exception as error:  # whatever a stranger's module raises on import
            plugins.set_aside(info, error)
            continue
        try:
            plugins.add(info, module)
        except PluginError:
            raise
        except Exception as error:  # its hooks are a stranger's code as well
            plugins.set_aside(info, error)
    plugins.load(extra, excluded)
    return plugins


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _describe(point: importlib.metadata.EntryPoint) -> PluginInfo:
    name = point.dist.name if point.dist else "-"
    version = point.dist.version if point.dist else "-"
    return PluginInfo(point.name, point.value, name, version)


def _from_argument(argument: str) -> tuple[PluginInfo, str | Path]:
    path = Path(argument)
    if argument.endswith(".py"):
        if not path.is_file():
            raise PluginError(
                f"--plugin {argument}: there is no such file. Give the path of a .py file, or "
                "the name of an importable module."
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return PluginInfo(path.stem, str(path.resolve()), version=f"sha256:{digest}"), path
    return PluginInfo(argument, argument), argument


def _import_argument(source: str | Path) -> ModuleType:
    try:
        if isinstance(source, str):
            return importlib.import_module(source)
        name = f"fairlead_plugin_{source.stem}"
        spec = importlib.util.spec_from_file_location(name, source)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        raise PluginError(
            f"--plugin {source}: it cannot be imported: {type(error).__name__}: {error}."
        ) from error
