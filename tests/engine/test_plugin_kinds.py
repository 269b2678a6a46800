"""Kinds of component that plugins add: a hook ``register_OTHERS`` of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest

from fairlead.config import ComponentOf, Config, Spec, build_config
from fairlead.errors import ConfigError, PluginError
from fairlead.plugins import Plugins, load_plugins
from fairlead.registry import KINDS, Registry, singular

PluginFile = Callable[[str, str], str]
Install = Callable[..., None]

DECLARES = """
from fairlead import hookimpl, hookspec

class Specs:
    @hookspec
    def register_tea_pots(self, register):
        "Register tea pots."

    @hookspec
    def tea_is_ready(self, cups):
        "Somebody made tea."

def register_hookspecs():
    return Specs

@hookimpl
def register_tea_pots(register):
    register("brown", "fairlead.config:Config")
"""

USES = """
from fairlead import hookimpl
from fairlead.config import Config

class Pot:
    class Config(Config):
        cups: int = 4

    def __init__(self, config):
        self.cups = config.cups

@hookimpl
def register_tea_pots(register):
    register("{name}", Pot)
"""


class Table(Config):
    pot: Annotated[Spec, ComponentOf("tea_pots")]


def table(plugins: Plugins, pot: Any) -> Table:
    return Table.model_validate({"pot": pot}, context={"registry": plugins.registry})


def test_a_hook_of_its_own_makes_a_plugins_components_a_kind(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    plugins = load_plugins([plugin_file("declares", DECLARES)])
    assert plugins.registry.kinds == [*KINDS, "tea_pots"]  # tea_is_ready registers nothing
    assert plugins.registry.names("tea_pots") == ["brown"]
    assert plugins.registry.get("tea_pots", "brown").load() is Config
    assert [component.kind for component in plugins.registry] == ["tea_pots"]


@pytest.mark.parametrize("order", [("declares", "uses"), ("uses", "declares")])
def test_other_plugins_are_asked_whether_loaded_before_or_after(
    no_installed_plugins: None, plugin_file: PluginFile, order: tuple[str, str]
) -> None:
    source = {"declares": DECLARES, "uses": USES.format(name="iron")}
    plugins = load_plugins([plugin_file(name, source[name]) for name in order])
    assert plugins.registry.names("tea_pots") == ["brown", "iron"]
    owner = plugins.registry.get("tea_pots", "iron").owner
    assert owner.startswith("plugin 'uses'")
    # Once each: asked again, it would clash with itself.
    spec = table(plugins, {"name": "iron", "cups": 2}).pot
    assert spec.kind == "tea_pots" and spec.build().cups == 2
    assert table(plugins, "iron").pot.build().cups == 4


def test_installed_plugins_are_asked_in_either_order(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("a_first", USES.format(name="iron"))
    install("m_declares", DECLARES)
    install("z_last", USES.format(name="glass"))
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "a_first,m_declares,z_last")
    plugins = load_plugins()
    assert plugins.broken == []
    assert plugins.registry.names("tea_pots") == ["brown", "glass", "iron"]


def test_without_the_plugin_that_declares_it_the_hook_does_not_exist(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    with pytest.raises(PluginError, match=r"'register_tea_pots', which does not exist"):
        load_plugins([plugin_file("uses", USES.format(name="iron"))])


@pytest.mark.parametrize("order", [("uses", "declares"), ("declares", "uses")])
def test_two_components_of_an_added_kind_with_one_name_are_an_error(
    no_installed_plugins: None, plugin_file: PluginFile, order: tuple[str, str]
) -> None:
    source = {"declares": DECLARES, "uses": USES.format(name="brown")}
    paths = [plugin_file(name, source[name]) for name in order]
    with pytest.raises(PluginError, match="two plugins register a tea pot named 'brown'") as caught:
        load_plugins(paths)
    assert "plugin 'uses'" in str(caught.value) and "plugin 'declares'" in str(caught.value)


def test_an_unknown_name_of_an_added_kind_suggests_and_lists(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    plugins = load_plugins([plugin_file("declares", DECLARES)])
    with pytest.raises(
        ConfigError,
        match=r"no tea pot named 'browm' \(did you mean 'brown'\?\)\. There are: brown\.",
    ):
        plugins.registry.get("tea_pots", "browm")
    with pytest.raises(ValueError, match="not a valid component"):
        table(plugins, {"cups": 3})


def test_a_plugin_that_fails_takes_its_components_of_added_kinds_with_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("declares", DECLARES)
    broken = USES.format(name="half") + "    raise RuntimeError('no luck')\n"
    install("z_broken", broken)
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "declares,z_broken")
    plugins = load_plugins()
    assert [info.name for info in plugins.broken] == ["z_broken"]
    assert plugins.registry.names("tea_pots") == ["brown"]


def test_a_run_knows_components_of_an_added_kind_inside_its_stages(
    plugin_file: PluginFile,
) -> None:
    stage = """
from typing import Annotated
from fairlead.config import ComponentOf, Spec

class Tea:
    class Config(Config):
        pot: Annotated[Spec, ComponentOf("tea_pots")]

    def __init__(self, config):
        pass

@hookimpl
def register_stages(register):
    register("tea", Tea)
"""
    plugins = load_plugins(
        [plugin_file("declares", DECLARES), plugin_file("uses", USES.format(name="iron") + stage)]
    )
    raw: dict[str, Any] = {"stages": {"tea": {"name": "tea", "pot": {"name": "iron", "cups": 3}}}}
    config = build_config(raw, plugins.registry)
    assert config.stages["tea"].dump() == {"name": "tea", "pot": {"name": "iron", "cups": 3}}
    raw["stages"]["tea"]["pot"]["cup"] = 1
    with pytest.raises(ConfigError, match=r"stages\.tea\.pot\.cup: .*did you mean 'cups'"):
        build_config(raw, plugins.registry)


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        ("reward_models", "reward"),  # the engine's own word for it
        ("losses", "loss"),
        ("labelers", "labeler"),
        ("tea_pots", "tea pot"),
        ("staff", "staff"),
    ],
)
def test_what_one_component_of_a_kind_is_called(kind: str, one: str) -> None:
    assert singular(kind) == one


def test_a_kind_added_to_one_registry_is_not_in_another() -> None:
    registry = Registry()
    registry.add_kind("tea_pots")
    assert registry.names("tea_pots") == []
    assert "tea_pots" not in Registry().kinds and "tea_pots" not in KINDS


def test_an_earlier_plugin_that_fails_is_set_aside_and_not_the_one_that_declares(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook is declared after the plugin that uses it was loaded; the fault is the user's."""
    install("a_broken", USES.format(name="half") + "    raise RuntimeError('no luck')\n")
    install("declares", DECLARES)
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "a_broken,declares")
    plugins = load_plugins()
    assert [(info.name, info.error) for info in plugins.broken] == [
        ("a_broken", "RuntimeError: no luck")
    ]
    assert plugins.registry.names("tea_pots") == ["brown"]
