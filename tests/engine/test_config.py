"""Configuration: what a file and overrides come to, and how faults are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from fairlead.config import (
    Config,
    DataSourceSpec,
    PolicyLossSpec,
    RunConfig,
    apply_overrides,
    build_config,
    interpolate,
    read_config_file,
    read_yaml,
)
from fairlead.errors import ConfigError
from fairlead.registry import Registry


class Lr(Config):
    peak: float = 1.0


class SourceConfig(Config):
    path: str


class MixtureConfig(Config):
    parts: list[DataSourceSpec]


class StageConfig(Config):
    source: DataSourceSpec | None = None
    model: str | Lr = "somewhere"
    lr: Lr = Lr()
    lrs: list[Lr] = []
    whiten: Literal["on", "off"] = "on"
    packing: bool = False
    loss: PolicyLossSpec | None = None


class Source:
    Config = SourceConfig

    def __init__(self, config: SourceConfig) -> None:
        self.config = config


class Mixture:
    Config = MixtureConfig


class Stage:
    Config = StageConfig


class Loss:
    pass


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.bound("data_sources", "tests")("jsonl", Source)
    made.bound("data_sources", "tests")("mixture", Mixture)
    made.bound("stages", "tests")("sft", Stage)
    made.bound("losses", "tests")("policy/clipped", Loss)
    return made


def build(registry: Registry, *overrides: str, text: str = "stages: {one: sft}") -> RunConfig:
    return build_config(apply_overrides(read_yaml(text, "test"), overrides), registry)


def stage(config: RunConfig, name: str = "one") -> Any:
    return config.stages[name].config


def fault(registry: Registry, *overrides: str, text: str = "stages: {one: sft}") -> str:
    with pytest.raises(ConfigError) as caught:
        build(registry, *overrides, text=text)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------


def test_a_key_given_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"'seed' is given twice") as caught:
        read_yaml("name: x\nseed: 1\nseed: 2\n", "file.yaml")
    assert "file.yaml" in str(caught.value)
    assert "line 3" in str(caught.value)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "+1e-5"])
def test_scientific_notation_is_a_number(text: str) -> None:
    assert read_yaml(f"a: {text}", "test")["a"] == pytest.approx(1e-5)


def test_off_is_a_word_and_still_a_boolean_where_one_is_wanted(registry: Registry) -> None:
    assert read_yaml("a: off\nb: true\n", "test") == {"a": "off", "b": True}
    config = stage(build(registry, "one.whiten=off", "one.packing=on"))
    assert config.whiten == "off"
    assert config.packing is True


def test_yaml_that_would_run_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml("a: !!python/object/apply:os.system ['true']", "test")


def test_merge_keys_work_and_a_key_that_is_a_list_is_an_error() -> None:
    data = read_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", "test")
    assert data["b"] == {"x": 1, "y": 3}
    with pytest.raises(ConfigError, match="plain word"):
        read_yaml("? [1]\n: 2", "test")


def test_a_missing_file_and_a_file_that_is_no_mapping_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml cannot be read.*--recipe"):
        read_config_file(tmp_path / "nope.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: a configuration is one mapping; got list"):
        read_config_file(tmp_path / "list.yaml")


# --- faults -----------------------------------------------------------------------------


def test_an_unknown_key_suggests_the_nearest_one_with_its_whole_path(registry: Registry) -> None:
    text = fault(registry, "one.lr.pek=1")
    assert "stages.one.lr.pek: there is no such key (did you mean 'peak'?)" in text
    assert "Keys here: peak" in text


def test_the_path_leads_through_nested_components_and_lists(registry: Registry) -> None:
    text = fault(
        registry,
        "one.source={name: mixture, parts: [{name: jsonl, path: x}, {name: jsonl, pth: y}]}",
    )
    assert "stages.one.source.parts.1.pth: there is no such key (did you mean 'path'?)" in text
    assert "stages.one.source.parts.1.path: must be given." in text


def test_every_fault_is_reported_at_once(registry: Registry) -> None:
    text = fault(registry, "one.lr.pek=1", "sede=3", "one.source.name=jsnl", "heldout=2")
    assert "stages.one.lr.pek" in text
    assert "sede: there is no such key (did you mean 'seed'?)" in text
    assert "stages.one.source.name: there is no data source named 'jsnl'" in text
    assert "heldout: Input should be less than 1; got 2" in text


def test_of_a_union_only_the_member_that_was_meant_is_reported(registry: Registry) -> None:
    text = fault(registry, "one.model={pek: 1}")
    assert "stages.one.model.pek: there is no such key (did you mean 'peak'?)" in text
    assert "valid string" not in text


def test_an_unknown_component_lists_what_there_is(registry: Registry) -> None:
    text = fault(registry, "one.loss=cliped")
    assert "did you mean" in text or "There are: policy/clipped" in text


def test_a_value_still_to_be_given_is_named_wherever_it_stands(registry: Registry) -> None:
    text = fault(
        registry,
        text="data: {a: '???', b: '???'}\nstages: {one: {name: sft, source: "
        "{name: jsonl, path: '???'}}}",
    )
    assert "data.a and data.b and stages.one.source.path must be given" in text
    assert "data.a=VALUE data.b=VALUE" in text


def test_no_stages_is_an_error(registry: Registry) -> None:
    assert "has no stages" in fault(registry, text="stages: {}")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/tmp/x", "a\\b", ".hidden", ""])
def test_a_name_that_would_leave_the_output_directory_is_refused(
    registry: Registry, name: str
) -> None:
    assert "cannot be a run's name" in fault(registry, f"name='{name}'")


@pytest.mark.parametrize("name", ["../x", "a/b", "seed"])
def test_a_stage_cannot_have_a_name_that_is_a_path_or_a_key(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a stage's name"):
        build_config({"stages": {name: "sft"}}, registry)


def test_a_stage_cannot_take_a_later_stage_or_itself(registry: Registry) -> None:
    text = "stages:\n  one: {name: sft, model: 'stage:two'}\n  two: sft\n"
    assert "stage 'one' takes stage:two, which is not an earlier stage" in fault(
        registry, text=text
    )
    assert "Earlier stages: none" in fault(registry, "one.model=stage:one")
    good = "stages:\n  one: sft\n  two: {name: sft, model: 'stage:one/ema'}\n"
    assert stage(build(registry, text=good), "two").model == "stage:one/ema"


def test_a_configuration_cannot_be_changed(registry: Registry) -> None:
    config = build(registry)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


# --- interpolation ----------------------------------------------------------------------


def test_references_stand_for_values_of_any_type() -> None:
    raw = {"data": {"a": {"x": [1, 2]}, "n": 3}, "all": "${data.a}", "text": "n=${data.n}."}
    assert interpolate(raw)["all"] == {"x": [1, 2]}
    assert interpolate(raw)["text"] == "n=3."


def test_a_reference_to_nothing_and_a_cycle_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"\$\{data\.b\} points at nothing: there is no 'b'"):
        interpolate({"data": {}, "x": "${data.b}"})
    with pytest.raises(ConfigError, match=r"refers to itself: a -> b -> a"):
        interpolate({"x": "${a}", "a": "${b}", "b": "${a}"})


# --- overrides --------------------------------------------------------------------------


def test_an_override_replaces_one_value_and_leaves_the_file_alone() -> None:
    raw = {"a": {"b": 1, "c": 2}}
    assert apply_overrides(raw, ["a.b=[1, x]"]) == {"a": {"b": [1, "x"], "c": 2}}
    assert raw == {"a": {"b": 1, "c": 2}}


def test_an_override_replaces_a_whole_mapping(registry: Registry) -> None:
    config = build(
        registry,
        "one.source={name: jsonl, path: y}",
        text="stages: {one: {name: sft, source: {name: mixture, parts: []}}}",
    )
    assert stage(config).source.dump() == {"name": "jsonl", "path": "y"}


def test_a_stages_name_is_short_for_its_place(registry: Registry) -> None:
    assert stage(build(registry, "one.lr.peak=2")).lr.peak == 2
    assert stage(build(registry, "stages.one.lr.peak=2")).lr.peak == 2


def test_a_field_of_a_component_given_by_its_name_can_be_set(registry: Registry) -> None:
    config = build(
        registry,
        "one.source.path=x",
        text="stages: {one: {name: sft, source: jsonl}}",
    )
    assert stage(config).source.dump() == {"name": "jsonl", "path": "x"}


def test_an_override_reaches_into_a_list(registry: Registry) -> None:
    text = "stages: {one: {name: sft, lrs: [{peak: 1}, {peak: 2}]}}"
    config = build(registry, "one.lrs.1.peak=5", text=text)
    assert [lr.peak for lr in stage(config).lrs] == [1, 5]
    for index in ("2", "x", "-1"):
        with pytest.raises(ConfigError, match=r"is a list of 2; .* is not an index"):
            build(registry, f"one.lrs.{index}.peak=5", text=text)


@pytest.mark.parametrize("override", ["seed", "=3", "--seed"])
def test_an_override_that_is_no_assignment_is_an_error(override: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value"):
        apply_overrides({}, [override])


def test_an_override_cannot_lead_through_a_plain_value() -> None:
    with pytest.raises(ConfigError, match=r"seed is 3, which has no keys"):
        apply_overrides({"seed": 3}, ["seed.x=1"])


def test_what_is_shown_gives_the_same_configuration_again(registry: Registry) -> None:
    text = "stages: {one: {name: sft, source: {name: jsonl, path: x}, loss: clipped}}"
    config = build(registry, "one.whiten=off", text=text)
    again = build_config(config.model_dump(mode="json"), registry)
    assert again == config
    assert again.stages["one"].build is not None
