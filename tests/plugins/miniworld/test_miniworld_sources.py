"""The four data sources: sizes, well-formed records, seeds, and the split by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import configure, context, minimal_stage

from fairlead.config import Spec
from fairlead.errors import ConfigError, DataError
from fairlead.plugins import load_plugins
from fairlead.records import Comparison, Demonstration, Prompt, Record, Text
from fairlead_plugins.miniworld.lexicon import PEOPLE
from fairlead_plugins.miniworld.world import Task, World

KINDS: dict[str, type[Record]] = {
    "miniworld_text": Text,
    "miniworld_demonstrations": Demonstration,
    "miniworld_comparisons": Comparison,
    "miniworld_prompts": Prompt,
}
PLUGINS = load_plugins()


def source(name: str, **settings: Any) -> Spec:
    # Through a stage, which is what knows of labelers by name.
    stage = {**minimal_stage(), "source": {"name": name, **settings}}
    found: Spec = (
        configure({"stages": {"one": stage}}, plugins=PLUGINS)[0].stages["one"].config.source
    )
    return found


def load(name: str, **settings: Any) -> Sequence[Record]:
    loaded: Sequence[Record] = source(name, **settings).build().load()
    return loaded


def size_key(name: str) -> str:
    return "documents" if name == "miniworld_text" else "count"


@pytest.mark.parametrize("name", KINDS)
def test_a_source_gives_as_many_records_as_asked_of_its_kind(name: str) -> None:
    for size in (1, 17, 200):
        records = load(name, **{size_key(name): size})
        assert len(records) == size
        assert all(type(record) is KINDS[name] and not record.chat for record in records)


@pytest.mark.parametrize("name", KINDS)
def test_a_source_is_a_function_of_its_seed(name: str) -> None:
    size = {size_key(name): 30}
    assert load(name, seed=5, **size) == load(name, seed=5, **size)
    assert load(name, seed=5, **size) != load(name, seed=6, **size)


@pytest.mark.parametrize("name", list(KINDS)[1:])
def test_prompts_are_different_and_none_asks_about_an_unseen_fact(name: str) -> None:
    records = load(name, seed=1, count=400)
    prompts = [record.prompt_text for record in records]
    assert len(set(prompts)) == 400
    unseen = {(f.person, f.attribute) for f in World(1).facts if not f.seen}
    for prompt in prompts:
        assert prompt.startswith("user : ") and prompt.endswith(" bot :")
        words = set(prompt.split())
        assert not any(person in words and attribute in words for person, attribute in unseen), (
            prompt
        )
    assert any(set(prompt.split()) & set(PEOPLE) for prompt in prompts)


@pytest.mark.parametrize("topic", ["general", "unseen", "respect", "code", "foreign", "counting"])
def test_prompts_are_of_the_topic_asked_for(topic: Any) -> None:
    records = load("miniworld_prompts", topic=topic, count=60, seed=3)
    prompts = [record.prompt_text for record in records]
    assert len(set(prompts)) == 60
    assert set(prompts) <= {task.prompt for task in World(3).questions(topic)}
    for record in records:
        assert Task.from_metadata(record.metadata).prompt == record.prompt_text


def test_an_unknown_topic_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"(?s)topic.*'general', 'unseen'.*got 'weather'"):
        source("miniworld_prompts", topic="weather")


def test_responses_begin_with_a_space_so_that_turns_join_to_text() -> None:
    for record in load("miniworld_demonstrations", count=100):
        assert isinstance(record, Demonstration)
        assert record.response.startswith(" ") and record.response == record.response.rstrip()
        assert "  " not in record.prompt_text + record.response


def test_comparisons_have_4_to_9_different_responses_and_some_ties() -> None:
    records = [r for r in load("miniworld_comparisons", count=400) if isinstance(r, Comparison)]
    sizes = {len(record.responses) for record in records}
    assert sizes == set(range(4, 10))
    for record in records:
        assert len(record.ranks) == len(record.responses) == len(set(record.responses))
        assert min(record.ranks) == 0
        assert all(text.startswith(" ") for text in record.responses)
    tied = sum(len(set(record.ranks)) < len(record.ranks) for record in records)
    assert 0 < tied < len(records)


@pytest.mark.parametrize("settings", [{"noise": 0.1}, {"taste": {"correct": 0.1}}])
def test_another_labeler_ranks_the_same_responses(settings: dict[str, Any]) -> None:
    usual = load("miniworld_comparisons", count=50)
    other = load("miniworld_comparisons", count=50, labeler={"name": "noisy", **settings})
    assert [r.responses for r in usual] == [r.responses for r in other]  # type: ignore[attr-defined]
    assert [r.ranks for r in usual] != [r.ranks for r in other]  # type: ignore[attr-defined]


IDLE = """
from fairlead import hookimpl

class Idle:
    def __init__(self, config):
        pass

    def rank(self, task, responses, rng):
        return tuple(float(number) for number in range(len(responses)))

@hookimpl
def register_labelers(register):
    register("idle", Idle)
"""


def test_a_labeler_that_draws_no_random_numbers_leaves_the_responses_as_they_are(
    plugin_file: Callable[[str, str], str],
) -> None:
    plugins = load_plugins([plugin_file("idle_plugin", IDLE)])
    comparisons = {"name": "miniworld_comparisons", "count": 20, "labeler": "idle"}
    raw = {"stages": {"one": {**minimal_stage(), "source": comparisons}}}
    other = configure(raw, plugins=plugins)[0].stages["one"].config.source.build().load()
    usual = load("miniworld_comparisons", count=20)
    assert [r.responses for r in usual] == [r.responses for r in other]  # type: ignore[attr-defined]
    assert all(list(record.ranks) == sorted(set(record.ranks)) for record in other)


def test_settings_of_the_usual_labeler_need_no_name() -> None:
    assert source("miniworld_comparisons", labeler={"noise": 0}).dump()["labeler"] == {
        **source("miniworld_comparisons").dump()["labeler"],
        "noise": 0.0,
    }


def test_held_out_prompts_are_held_out_of_every_stage(tmp_path: Path) -> None:
    run = context(tmp_path, heldout=0.2)
    sides: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for name in list(KINDS)[1:]:
        given = source(name, count=500)
        for part, seen in sides.items():
            records = run.records(given, Prompt, part)
            assert records
            seen.update(record.prompt_text for record in records)
    assert not sides["train"] & sides["heldout"]
    assert 0.1 < len(sides["heldout"]) / sum(map(len, sides.values())) < 0.3


@pytest.mark.parametrize("name", list(KINDS)[1:])
def test_asking_for_more_prompts_than_there_are_says_how_many(name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: count=99999: the miniworld has 984 "):
        load(name, count=99999)


def test_every_topic_has_a_number_of_prompts_of_its_own() -> None:
    with pytest.raises(DataError, match=r"count=67: the miniworld has 66 .* of that topic"):
        load("miniworld_prompts", topic="counting", count=67)


def test_a_wrong_range_of_responses_is_a_configuration_error() -> None:
    settings = {"name": "miniworld_comparisons", "fewest": 6, "most": 5}
    with pytest.raises(ConfigError, match="fewest=6 is more than most=5"):
        configure({"stages": {"one": {**minimal_stage(), "source": settings}}})
