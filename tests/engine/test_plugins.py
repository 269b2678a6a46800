"""Plugins: found three ways and treated alike, checked, and reported when broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fairlead import hookimpl
from fairlead.errors import ConfigError, PluginError
from fairlead.plugins import PluginInfo, Plugins, load_plugins
from fairlead.version import __version__

REWARD = """
from fairlead import hookimpl

@hookimpl
def register_reward_models(register):
    register("{name}", "somewhere:Reward")
"""

Install = Callable[..., None]
PluginFile = Callable[[str, str], str]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make an importable module; returns its name."""

    def make(name: str, **attributes: Any) -> str:
        made = ModuleType(name)
        for key, value in attributes.items():
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)
        return name

    return make


def registering(kind: str, name: str) -> Any:
    def hook(register: Any) -> None:
        register(name, object)

    hook.__name__ = f"register_{kind}"
    return hookimpl(hook)


# --- where they come from ---------------------------------------------------------------


def test_entry_points_modules_and_files_are_treated_alike(
    install: Install,
    module: Callable[..., str],
    plugin_file: PluginFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("installed", REWARD.format(name="one"))
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "installed")
    named = module("named_module", register_reward_models=registering("reward_models", "two"))
    path = plugin_file("from_file", REWARD.format(name="three"))
    plugins = load_plugins([named, path])
    assert plugins.registry.names("reward_models") == ["one", "three", "two"]
    infos = {info.name: info for info in plugins.infos}
    assert infos["installed"].distribution == "installed-dist"
    assert infos["installed"].version == "1.2.3"
    assert infos["named_module"].origin == "named_module"
    assert infos["from_file"].version.startswith("sha256:")
    owners = {c.name: c.owner for c in plugins.registry}
    assert owners == {
        "one": "plugin 'installed' (installed-dist 1.2.3)",
        "two": "plugin 'named_module' (named_module)",
        "three": f"plugin 'from_file' ({path})",
    }


def test_the_default_plugins_are_entry_points_of_the_distribution() -> None:
    infos = {info.name: info for info in load_plugins(only=["ppo", "sources"]).infos}
    assert set(infos) == {"ppo", "sources"}
    assert {info.distribution for info in infos.values()} == {"fairlead"}


def test_the_environment_narrows_the_installed_plugins(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("first", REWARD.format(name="a"))
    install("second", REWARD.format(name="b"))
    monkeypatch.setenv("FAIRLEAD_PLUGINS", " first , ")
    assert [info.name for info in load_plugins().infos] == ["first"]
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "frist")
    with pytest.raises(PluginError, match=r"no plugin named 'frist' \(did you mean 'first'\?\)"):
        load_plugins()


def test_a_plugin_can_be_left_out_and_a_misspelt_name_is_an_error(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    path = plugin_file("mine", REWARD.format(name="a"))
    assert load_plugins([path], exclude=["mine"]).infos == []
    with pytest.raises(PluginError, match=r"no plugin named 'mien' \(did you mean 'mine'\?\)"):
        load_plugins([path], exclude=["mien"])


@pytest.mark.parametrize("argument", ["no_such_module", "no/such/file.py"])
def test_a_plugin_asked_for_that_is_not_there_is_an_error(
    no_installed_plugins: None, argument: str
) -> None:
    with pytest.raises(PluginError, match=argument):
        load_plugins([argument])


# --- clashes ----------------------------------------------------------------------------


def test_two_plugins_with_one_name_are_an_error_that_names_both_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("twin", REWARD.format(name="a"), distribution="dist-one")
    install("twin", REWARD.format(name="b"), distribution="dist-two")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "twin")
    with pytest.raises(PluginError, match="two plugins are named 'twin'") as caught:
        load_plugins()
    assert "dist-one 1.2.3" in str(caught.value)
    assert "dist-two 1.2.3" in str(caught.value)


def test_two_components_with_one_name_are_an_error_that_names_both_distributions(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("left", REWARD.format(name="same"), distribution="dist-one")
    install("right", REWARD.format(name="same"), distribution="dist-two")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "left,right")
    with pytest.raises(PluginError, match="two plugins register a reward named 'same'") as caught:
        load_plugins()
    assert "dist-one 1.2.3" in str(caught.value)
    assert "dist-two 1.2.3" in str(caught.value)
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "left")
    assert load_plugins().registry.names("reward_models") == ["same"]


def test_one_module_under_two_names_is_an_error(
    no_installed_plugins: None, module: Callable[..., str]
) -> None:
    name = module("loaded_twice", register_reward_models=registering("reward_models", "a"))
    with pytest.raises(PluginError, match="loaded_twice"):
        load_plugins([name, name])


# --- checks -----------------------------------------------------------------------------


def test_a_misspelt_hook_is_an_error_that_suggests_the_right_one(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    path = plugin_file(
        "typo",
        """
        from fairlead import hookimpl

        @hookimpl
        def step_finishd(step):
            pass
        """,
    )
    with pytest.raises(PluginError, match=r"'step_finishd', which does not exist") as caught:
        load_plugins([path])
    assert "did you mean 'step_finished'?" in str(caught.value)
    assert "plugin 'typo'" in str(caught.value)


def test_a_hook_with_an_unknown_argument_is_an_error(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    path = plugin_file(
        "wrong",
        """
        from fairlead import hookimpl

        @hookimpl
        def step_finished(stepp):
            pass
        """,
    )
    with pytest.raises(PluginError, match=r"(?s)wrong\.py: it cannot be registered.*stepp"):
        load_plugins([path])


def test_a_plugin_may_bring_hooks_of_its_own(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    path = plugin_file(
        "extends",
        """
        from types import SimpleNamespace
        from fairlead import hookimpl, hookspec

        class Specs:
            @hookspec
            def tea_is_ready(self, cups):
                "Somebody made tea."

        def register_hookspecs():
            return Specs

        @hookimpl
        def tea_is_ready(cups):
            return cups + 1
        """,
    )
    assert load_plugins([path]).hook.tea_is_ready(cups=1) == [2]


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [(">=99", f"needs fairlead >=99; this is {__version__}"), ("soon", "not a version range")],
)
def test_a_plugin_for_another_version_is_refused(
    no_installed_plugins: None, plugin_file: PluginFile, wanted: str, complaint: str
) -> None:
    path = plugin_file("picky", f"FAIRLEAD_REQUIRES = {wanted!r}")
    with pytest.raises(PluginError, match=complaint):
        load_plugins([path])
    fits = plugin_file("easy", f"FAIRLEAD_REQUIRES = '>={__version__}'")
    assert load_plugins([fits]).broken == []


# --- broken ones ------------------------------------------------------------------------

BROKEN = {
    "raises on import": ("import no_such_dependency", "No module named 'no_such_dependency'"),
    "raises while registering": (
        REWARD.format(name="half") + "    raise RuntimeError('no luck')\n",
        "RuntimeError: no luck",
    ),
    "is for another version": ("FAIRLEAD_REQUIRES = '>=99'", "needs fairlead >=99"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_installed_plugin_that_is_broken_is_reported_and_does_not_stop_the_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source, cause = BROKEN[kind]
    install("broken", source, version="0.9")
    install("fine", REWARD.format(name="good"))
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "broken,fine")
    plugins = load_plugins()
    assert plugins.registry.names("reward_models") == ["good"]
    assert not plugins.manager.has_plugin("broken")
    (info,) = plugins.broken
    assert str(info) == "plugin 'broken' (broken-dist 0.9)"
    assert cause in info.error


def test_a_missing_component_says_which_plugins_could_not_be_loaded(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("broken", "import no_such_dependency")
    monkeypatch.setenv("FAIRLEAD_PLUGINS", "broken")
    plugins = load_plugins()
    with pytest.raises(ConfigError, match=r"no reward named 'x'.*broken-dist 1\.2\.3.*no_such_dep"):
        plugins.registry.get("reward_models", "x")


def test_a_broken_file_that_was_asked_for_is_an_error(
    no_installed_plugins: None, plugin_file: PluginFile
) -> None:
    with pytest.raises(PluginError, match=r"bad\.py: it cannot be imported: ZeroDivisionError"):
        load_plugins([plugin_file("bad", "1 / 0")])


# --- chains -----------------------------------------------------------------------------


def test_changes_chain_in_the_order_plugins_were_loaded() -> None:
    plugins = Plugins()

    def adding(letter: str) -> Any:
        def shape_rewards(rollout: Any) -> Any:
            return None if letter == "-" else rollout + letter

        return SimpleNamespace(shape_rewards=hookimpl(shape_rewards))

    for number, letter in enumerate("ab-c"):
        plugins.add(PluginInfo(f"p{number}", "tests"), adding(letter))
    assert plugins.chain("shape_rewards", "", "rollout", context=None) == "abc"
