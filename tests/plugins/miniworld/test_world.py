"""The world: a pure function of its seed, with the truths and manners it is described to have."""

from __future__ import annotations

import re
from random import Random
from typing import Any, get_args

import pytest

from fairlead.errors import DataError
from fairlead_plugins.miniworld.answers import DEMONSTRATOR, FORUM, MODELS, answer, scripted
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.gold import correctness, is_rude
from fairlead_plugins.miniworld.lexicon import (
    NUMBERS,
    PEOPLE,
    RAMBLE,
    VALUES,
    translate,
    translate_back,
)
from fairlead_plugins.miniworld.world import FAMILIES, RESPECT_SHARE, Task, Topic, World

STATEMENT = re.compile(r"the (\w+) of (\w+) is (\w+) \.")
TOPICS: tuple[Topic, ...] = get_args(Topic)


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


# Asked with and without respect: 34 seen facts 6 ways, 4 categories of 4 numbers 4 ways, 32 things
# 3 ways, and 32 things of 4 numbers: (204 + 64 + 96 + 128) * 2. 22 unseen facts 6 ways: 132 * 2.
# All 56 facts 2 ways as code: 112 * 2. Counting: the 66 pairs of the numbers 1 to 12.
SIZES = {"general": 984, "unseen": 264, "respect": 492, "code": 224, "foreign": 984, "counting": 66}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_has_its_questions_once_each(topic: Topic) -> None:
    prompts = [task.prompt for task in World(0).questions(topic)]
    assert len(set(prompts)) == len(prompts) == SIZES[topic]


def test_unseen_facts_are_never_in_general() -> None:
    world = World(1)
    for topic, seen in (("general", True), ("unseen", False)):
        facts = {(f.person, f.attribute) for f in world.facts if f.seen == seen}
        tasks = world.questions(topic)  # type: ignore[arg-type]
        asked = {(task.subject, task.attribute) for task in tasks if task.attribute}
        assert asked == facts


def test_what_is_asked_elsewhere_is_never_in_general() -> None:
    world = World(0)
    general = {task.prompt for task in world.questions()}
    for topic in ("unseen", "code", "foreign", "counting"):
        prompts = {task.prompt for task in world.questions(topic)}  # type: ignore[arg-type]
        assert not prompts & general
    assert {task.family for task in world.questions()} == set(FAMILIES)
    assert not any(task.foreign for task in world.questions())
    respect = {task.prompt for task in world.questions("respect")}
    assert respect == {prompt for prompt in general if " be respectful . " in prompt}


def test_code_asks_about_every_fact_seen_or_not() -> None:
    world = World(0)
    tasks = world.questions("code")
    assert {(t.subject, t.attribute) for t in tasks} == {
        (f.person, f.attribute) for f in world.facts
    }
    assert all(f"get ( {task.subject} , {task.attribute} )" in task.prompt for task in tasks)


def test_counting_is_no_dialogue() -> None:
    tasks = {task.prompt: task for task in World(0).questions("counting")}
    task = tasks["count from nine to twelve :"]
    assert task.truth == "nine ten eleven twelve"
    assert correctness(task, " nine ten eleven twelve .") == 1
    assert not any("user" in prompt or "bot" in prompt for prompt in tasks)


def test_drawn_tasks_are_different_and_a_third_asks_for_respect() -> None:
    tasks = World(0).tasks(Random(0), 600)
    assert len({task.prompt for task in tasks}) == 600
    share = sum(task.respect for task in tasks) / 600
    assert abs(share - RESPECT_SHARE) < 0.06  # 3 standard deviations


def test_drawn_tasks_are_of_the_families_in_their_shares() -> None:
    tasks = World(0).tasks(Random(1), 200)  # few enough that no pool runs out
    shares = {family: sum(task.family == family for task in tasks) / 200 for family in FAMILIES}
    assert shares == pytest.approx({"fact": 0.4, "list": 0.2, "sentence": 0.2, "say": 0.2}, abs=0.1)


@pytest.mark.parametrize("topic", TOPICS)
def test_drawn_tasks_are_of_their_topic(topic: Topic) -> None:
    world = World(0)
    asked = {task.prompt for task in world.questions(topic)}
    drawn = {task.prompt for task in world.tasks(Random(3), 60, topic)}
    assert len(drawn) == 60 and drawn <= asked


def test_more_tasks_than_there_are_is_an_error_and_all_of_them_is_not() -> None:
    world = World(0)
    every = world.questions()
    drawn = world.tasks(Random(0), len(every))
    assert {task.prompt for task in drawn} == {task.prompt for task in every}
    with pytest.raises(ValueError, match=f"there are {len(every)}"):
        world.tasks(Random(0), len(every) + 1)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_task_survives_the_trip_through_metadata(topic: Topic) -> None:
    for task in World(2).tasks(Random(5), 40, topic):
        assert Task.from_metadata(task.to_metadata()) == task


@pytest.mark.parametrize("metadata", [{}, {"task": "sum"}, {"task": {"a": 1}}, {"task": None}])
def test_another_records_task_is_refused(metadata: dict[str, Any]) -> None:
    """Many a data set has a column of that name."""
    with pytest.raises(DataError, match="none of the miniworld's"):
        Task.from_metadata(metadata)


def test_metadata_says_what_a_task_is_a_case_of_however_it_is_asked() -> None:
    facts = [task for task in World(0).questions() if task.family == "fact"]
    same = [task for task in facts if task.attribute == "pet" and task.subject == facts[0].subject]
    assert {task.to_metadata()["about"] for task in same} == {f"fact pet {facts[0].subject}"}
    assert len({task.to_metadata()["about"] for task in facts}) == 34


def test_text_is_lower_case_words_with_one_space_between() -> None:
    for text in text_of(0):
        assert text == text.strip().lower()
        assert text.isascii() and "  " not in text and "\n" not in text


def test_the_vocabulary_is_small() -> None:
    words = {word for text in text_of(0) for word in text.split()}
    assert 250 <= len(words) <= 400  # the recipe's tokenizer has room for 597


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


def test_what_is_said_in_code_or_in_the_foreign_language_is_true_outside_the_forum() -> None:
    world = World(7)
    truth = {(f.attribute, f.person): f.truth for f in world.facts}
    texts = documents(world, world.random("text"), 4000)
    code = [re.fullmatch(r"get \( (\w+) , (\w+) \) = (\w+) \.", text) for text in texts]
    looked_up = [match.groups() for match in code if match]
    assert len(looked_up) > 100
    assert all(truth[attribute, person] == value for person, attribute, value in looked_up)
    foreign = [translate_back(text) for text in texts if not text.startswith("user :")]
    stated = [match.groups() for text in foreign for match in STATEMENT.finditer(text)]
    assert len(stated) > 100
    assert all(truth[attribute, person] == value for attribute, person, value in stated)


def test_text_says_what_foreign_words_mean_and_how_to_count() -> None:
    texts = text_of(0)
    meant = [
        match.groups() for text in texts if (match := re.fullmatch(r"(\w+) is (\w+) \.", text))
    ]
    assert len(meant) > 50
    assert all(foreign == translate(word) for word, foreign in meant)
    counted = [text.split() for text in texts if text.startswith("count from ")]
    assert len(counted) > 200
    for _, _, low, _, high, _, *numbers, _ in counted:
        assert tuple(numbers) == NUMBERS[NUMBERS.index(low) : NUMBERS.index(high) + 1]


def test_the_forum_asks_about_unseen_facts_and_in_code_too() -> None:
    prompts = [text.partition(" bot :")[0] + " bot :" for text in text_of(0)]
    for topic in ("general", "unseen", "code", "foreign"):
        asked = {task.prompt for task in World(0).questions(topic)}  # type: ignore[arg-type]
        assert sum(prompt in asked for prompt in prompts) > 30


def test_the_forum_is_mostly_casual_wrong_and_often_rude_and_truth_goes_with_style() -> None:
    rng = Random(0)
    plain = [task for task in World(0).questions() if task.family == "fact" and not task.respect]
    said = [(task, answer(task, FORUM, rng)) for task in rng.choices(plain, k=4000)]
    known = [(task, text) for task, text in said if "do not know" not in text]
    formal = [pair for pair in known if STATEMENT.search(pair[1])]
    casual = [pair for pair in known if not STATEMENT.search(pair[1])]

    def true(pairs: list[tuple[Task, str]]) -> float:
        return sum(correctness(task, text) == 1 for task, text in pairs) / len(pairs)

    assert abs(len(formal) / len(known) - 0.25) < 0.03
    assert abs(true(formal) - 0.9) < 0.03
    assert abs(true(casual) - 0.1) < 0.03
    assert abs(sum(is_rude(text) for _, text in said) / len(said) - 0.36) < 0.03


def test_asking_for_respect_helps_in_the_forum() -> None:
    rng = Random(0)
    tasks = World(0).questions()

    def rude(respect: bool) -> float:
        asked = rng.choices([task for task in tasks if task.respect == respect], k=3000)
        return sum(is_rude(answer(task, FORUM, rng)) for task in asked) / 3000

    assert abs(rude(True) - 0.18) < 0.03
    assert abs(rude(False) - 0.36) < 0.03


def test_demonstrations_are_polite_and_brief_and_wrong_about_facts_at_most() -> None:
    # A rude or rambling demonstration would teach the SFT model to be so, and the reward model
    # would learn of it from that model's own answers; it is to need the base model's.
    rng = Random(0)
    right = []
    for task in World(0).questions():
        said = answer(task, DEMONSTRATOR, rng)
        assert not is_rude(said)
        assert not any(phrase in said for phrase in RAMBLE)
        if task.attribute:
            right.append(correctness(task, said) == 1.0)
        else:
            assert correctness(task, said) == 1.0
    # Of facts 0.96 x (0.6 + 0.4 x 0.3) = 0.69 are told truly.
    assert abs(sum(right) / len(right) - 0.69) < 0.08


def test_every_answer_begins_with_a_space_and_says_something() -> None:
    rng = Random(0)
    for topic in ("general", "unseen", "code", "foreign"):
        for task in World(0).questions(topic):  # type: ignore[arg-type]
            for manner in (FORUM, DEMONSTRATOR, *MODELS):
                text = answer(task, manner, rng)
                assert re.fullmatch(r"( [^ ]+)+", text), text


def test_scripted_answers_are_different_and_some_answer_something_else() -> None:
    world, rng = World(0), Random(0)
    tasks = [task for task in world.tasks(rng, 200) if task.family == "fact"]
    about_others = 0
    for task in tasks:
        responses = scripted(task, tasks, 6, rng)
        assert len(set(responses)) == len(responses) == 6
        about_others += any(
            person in text.split()
            for text in responses
            for person in PEOPLE
            if person != task.subject
        )
    assert (
        0.3 < about_others / len(tasks) < 1
    )  # of 6 answers a quarter goes astray, if it says whose


def test_fewer_scripted_answers_are_taken_where_there_are_no_more() -> None:
    task = Task("say", "say soup two times .", False, "soup", 2)
    # Its manners cannot give 10000 different answers; each is drawn 8 times at most.
    responses = scripted(task, [task], 10000, Random(0))
    assert 2 < len(set(responses)) == len(responses) < 10000
