"""The world: a pure function of its seed, with the truths and manners it is described to have."""

from __future__ import annotations

import re
from random import Random

import pytest

from fairlead_plugins.miniworld.answers import DEMONSTRATOR, FORUM, MODELS, answer
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.gold import is_rude, is_true
from fairlead_plugins.miniworld.lexicon import PEOPLE, VALUES
from fairlead_plugins.miniworld.world import RESPECT_SHARE, Task, World

STATEMENT = re.compile(r"the (\w+) of (\w+) is (\w+) \.")


def text_of(seed: int, count: int = 4000) -> list[str]:
    world = World(seed)
    return documents(world, world.random("text"), count)


def test_one_seed_is_one_world_and_two_seeds_are_two() -> None:
    assert World(3).facts == World(3).facts
    assert World(3).facts != World(4).facts
    assert text_of(3, 50) == text_of(3, 50)
    assert text_of(3, 50) != text_of(4, 50)


def test_there_are_56_facts_and_two_fifths_of_them_are_never_asked_about() -> None:
    facts = World(0).facts
    assert len(facts) == len(PEOPLE) * len(VALUES) == 56
    assert sum(not fact.seen for fact in facts) == 22
    for fact in facts:
        assert {fact.truth, fact.misconception} <= set(VALUES[fact.attribute])
        assert fact.truth != fact.misconception


def test_a_value_belongs_to_one_attribute_so_that_answers_can_be_judged() -> None:
    values = [value for group in VALUES.values() for value in group]
    assert len(set(values)) == len(values) == 32


def test_questions_ask_about_the_facts_of_their_group_alone() -> None:
    world = World(1)
    for group in ("seen", "unseen"):
        facts = {(f.person, f.attribute) for f in world.facts if f.seen == (group == "seen")}
        asked = [t for t in world.questions(group) if t.family == "fact"]  # type: ignore[arg-type]
        assert {(task.subject, task.attribute) for task in asked} == facts


def test_prompts_are_all_different() -> None:
    prompts = [task.prompt for task in World(0).questions()]
    assert len(set(prompts)) == len(prompts) > 1000


def test_drawn_tasks_are_different_and_a_third_asks_for_respect() -> None:
    tasks = World(0).tasks(Random(0), 600)
    assert len({task.prompt for task in tasks}) == 600
    share = sum(task.respect for task in tasks) / 600
    assert abs(share - RESPECT_SHARE) < 0.06  # 3 standard deviations


def test_more_tasks_than_there_are_is_an_error_and_all_of_them_is_not() -> None:
    world = World(0)
    every = world.questions()
    drawn = world.tasks(Random(0), len(every))
    assert {task.prompt for task in drawn} == {task.prompt for task in every}
    with pytest.raises(ValueError, match=f"there are {len(every)}"):
        world.tasks(Random(0), len(every) + 1)


def test_a_task_survives_the_trip_through_metadata() -> None:
    for task in World(2).tasks(Random(5), 40):
        assert Task.from_metadata(task.to_metadata()) == task


def test_text_is_lower_case_words_with_one_space_between() -> None:
    for text in text_of(0):
        assert text == text.strip().lower()
        assert text.isascii() and "  " not in text and "\n" not in text


def test_the_vocabulary_is_small() -> None:
    words = {word for text in text_of(0) for word in text.split()}
    assert 180 <= len(words) <= 300


def test_what_is_stated_outside_the_forum_is_true() -> None:
    world = World(7)
    truth = {(f.attribute, f.person): f.truth for f in world.facts}
    stated = [
        match.groups()
        for text in documents(world, world.random("text"), 4000)
        if not text.startswith("user :")
        for match in STATEMENT.finditer(text)
    ]
    assert {(attribute, person) for attribute, person, _ in stated} == set(truth)
    assert all(truth[attribute, person] == value for attribute, person, value in stated)


def test_the_forum_is_mostly_casual_wrong_and_often_rude_and_truth_goes_with_style() -> None:
    rng = Random(0)
    plain = [task for task in World(0).questions() if task.family == "fact" and not task.respect]
    said = [(task, answer(task, FORUM, rng)) for task in rng.choices(plain, k=4000)]
    known = [(task, text) for task, text in said if "do not know" not in text]
    formal = [pair for pair in known if STATEMENT.search(pair[1])]
    casual = [pair for pair in known if not STATEMENT.search(pair[1])]

    def true(pairs: list[tuple[Task, str]]) -> float:
        return sum(is_true(task, text) for task, text in pairs) / len(pairs)

    assert abs(len(formal) / len(known) - 0.28) < 0.03
    assert abs(true(formal) - 0.9) < 0.03
    assert abs(true(casual) - 0.2) < 0.03
    assert abs(sum(is_rude(text) for _, text in said) / len(said) - 0.36) < 0.03


def test_asking_for_respect_helps_in_the_forum() -> None:
    rng = Random(0)
    tasks = World(0).questions()

    def rude(respect: bool) -> float:
        asked = rng.choices([task for task in tasks if task.respect == respect], k=3000)
        return sum(is_rude(answer(task, FORUM, rng)) for task in asked) / 3000

    assert abs(rude(True) - 0.18) < 0.03
    assert abs(rude(False) - 0.36) < 0.03


def test_every_answer_begins_with_a_space_and_says_something() -> None:
    rng = Random(0)
    for task in World(0).questions():
        for manner in (FORUM, DEMONSTRATOR, *MODELS):
            text = answer(task, manner, rng)
            assert re.fullmatch(r"( [^ ]+)+", text), text
