"""docs/recipes.md: its configurations are valid, its records can be read, no recipe is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import support

from fairlead.config import MISSING, build_config
from fairlead.plugins import Plugins, load_plugins
from fairlead.records import Comparison, Demonstration, Record, Text
from fairlead.yaml_reader import read_yaml

DOCS = support.ROOT / "docs"
PAGE = (DOCS / "recipes.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def filled(value: Any) -> Any:
    """The same configuration with a name in place of everything that must be given."""
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item) for item in value]
    return "given" if value == MISSING else value


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


CONFIGURATIONS = [block for block in blocks(PAGE, "yaml") if "stages:" in block]
README = [b for b in blocks((support.ROOT / "README.md").read_text(), "yaml") if "stages:" in b]


def test_there_are_configurations_to_check():
    assert len(CONFIGURATIONS) == 4
    assert len(README) == 1


@pytest.mark.parametrize("block", [*CONFIGURATIONS, *README], ids=lambda b: b.splitlines()[0][2:])
def test_configuration_is_valid(block, plugins):
    config = build_config(filled(read_yaml(block, "the page")), plugins.registry)
    assert config.stages


def test_a_misspelt_key_would_be_found(plugins):
    broken = CONFIGURATIONS[0].replace("batch_size:", "batchsize:")
    with pytest.raises(Exception, match="did you mean 'batch_size'"):
        build_config(filled(read_yaml(broken, "the page")), plugins.registry)


def test_every_shipped_recipe_is_described_and_no_other(plugins):
    table = PAGE.split("## The shipped recipes")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", table, re.MULTILINE)) == plugins.registry.names(
        "recipes"
    )


def test_every_data_source_has_its_place(plugins):
    headings = re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)
    ours = [n for n in plugins.registry.names("data_sources") if not n.startswith("miniworld_")]
    assert sorted(headings) == ours
    for name in plugins.registry.names("data_sources"):
        assert f"`{name}`" in PAGE


def read(source: str, line: str, directory: Path, plugins: Plugins) -> Record:
    (directory / "data.jsonl").write_text(line)
    made = plugins.registry.get("data_sources", source).load()
    (record,) = made(made.Config(path=str(directory / "data.jsonl"))).load()
    return record


def records_of(section: str) -> list[str]:
    return blocks(PAGE.split(f"### `{section}`")[1].split("\n##")[0], "json")


def test_every_example_line_of_jsonl_is_read_as_it_says(tmp_path, plugins):
    lines = records_of("jsonl")
    found = [read("jsonl", line, tmp_path, plugins) for line in lines]
    kinds = [type(record) for record in found]
    assert kinds == [Demonstration, Demonstration, Comparison, Comparison, Comparison, Text]
    assert found[0].response == "fromage"
    assert found[1].chat
    assert found[2].prompt_text == found[3].prompt_text == "The capital of France is"
    assert found[2].responses == found[3].responses == (" Paris.", " Rome.")
    assert found[4].ranks == (1, 1, 2)


def test_the_example_lines_of_hh_and_tasks_are_read(tmp_path, plugins):
    (hh,), (task,) = records_of("hh"), records_of("tasks")
    pair = read("hh", hh, tmp_path, plugins)
    assert pair.responses == (" Hi, how can I help?", " No.")
    assert read("tasks", task, tmp_path, plugins).prompt_text == "Is this fruit sweet?\n\nlemon\n\n"


def test_the_mixture_is_a_valid_source(plugins):
    (block,) = [b for b in blocks(PAGE, "") if "name: mixture" in b]
    stage = {"name": "pretrain", "model": "m", "steps": 1, "source": read_yaml(block, "the page")}
    config = build_config({"stages": {"pretrain": stage}}, plugins.registry)
    assert config.stages["pretrain"].config.source.name == "mixture"


def test_every_json_block_is_one_line_of_json():
    for block in blocks(PAGE, "json"):
        assert isinstance(json.loads(block), dict)
        assert block.count("\n") == 1
