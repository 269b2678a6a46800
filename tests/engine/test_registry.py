"""Named components: owners, clashes, and errors that list what exists."""

from __future__ import annotations

import pytest

from fairlead.errors import ConfigError, PluginError
from fairlead.registry import Registry


def test_two_plugins_with_one_component_name_are_both_named() -> None:
    registry = Registry()
    registry.bound("reward_models", "plugin 'a' (dist-a 1.0)")("length", object)
    with pytest.raises(PluginError) as caught:
        registry.bound("reward_models", "plugin 'b' (dist-b 2.0)")("length", object)
    text = str(caught.value)
    assert "two plugins register a reward named 'length'" in text
    assert "dist-a 1.0" in text
    assert "dist-b 2.0" in text


def test_one_name_may_stand_for_components_of_different_kinds() -> None:
    registry = Registry()
    registry.bound("stages", "a")("ppo", object)
    registry.bound("algorithms", "a")("ppo", object)
    assert registry.names("stages") == registry.names("algorithms") == ["ppo"]


def test_an_unknown_name_suggests_and_lists() -> None:
    registry = Registry()
    registry.bound("optimizers", "a")("adamw", object)
    with pytest.raises(ConfigError, match=r"no optimizer named 'adam' \(did you mean 'adamw'\?\)"):
        registry.get("optimizers", "adam")
    with pytest.raises(ConfigError, match="There are: none"):
        registry.get("loggers", "x")


@pytest.mark.parametrize("name", ["clipped", "polcy/clipped", "policy/"])
def test_a_loss_without_a_role_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match=r"ROLE/NAME with a role of policy, value"):
        Registry().bound("losses", "a")(name, object)


def test_a_factory_given_as_text_is_imported_when_it_is_used() -> None:
    registry = Registry()
    registry.bound("optimizers", "a")("good", "collections:OrderedDict")
    registry.bound("optimizers", "plugin 'a' (d 1)")("no_module", "no_such_module:X")
    registry.bound("optimizers", "plugin 'a' (d 1)")("no_attribute", "collections:Nope")
    assert registry.get("optimizers", "good").load().__name__ == "OrderedDict"
    for name in ("no_module", "no_attribute"):
        with pytest.raises(PluginError, match=rf"optimizer '{name}' of plugin 'a' \(d 1\) cannot"):
            registry.get("optimizers", name).load()


def test_a_recipe_is_a_path_and_is_not_imported() -> None:
    registry = Registry()
    registry.bound("recipes", "a")("mine", "/some/where:odd.yaml")
    assert registry.get("recipes", "mine").load() == "/some/where:odd.yaml"


def test_removing_an_owner_leaves_the_others() -> None:
    registry = Registry()
    registry.bound("optimizers", "a")("x", object)
    registry.bound("optimizers", "b")("y", object)
    registry.remove("a")
    assert [component.name for component in registry] == ["y"]
