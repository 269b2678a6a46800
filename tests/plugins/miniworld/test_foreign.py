"""The foreign language: every word back and forth, and answers in it judged as the others are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from fairlead_plugins.miniworld import lexicon
from fairlead_plugins.miniworld.answers import DEMONSTRATOR, MODELS, answer
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.gold import correctness, judge
from fairlead_plugins.miniworld.lexicon import SPEAKERS, translate, translate_back
from fairlead_plugins.miniworld.world import Topic, World


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in texts_in(one))
    elif isinstance(value, tuple):
        yield from (text for one in value for text in texts_in(one))


def own_words() -> set[str]:
    """Every word of the lexicon, of the questions, and of what is told, less what is foreign."""
    world = World(0)
    topics: tuple[Topic, ...] = ("general", "unseen", "code", "counting")
    texts = [
        text for name, value in vars(lexicon).items() if name.isupper() for text in texts_in(value)
    ]
    texts += [task.prompt for topic in topics for task in world.questions(topic)]
    rng = Random(0)
    for task in world.questions():
        texts += [answer(task, manner, rng) for manner in (DEMONSTRATOR, *MODELS)]
    told = [text for text in documents(world, rng, 2000) if text.startswith(("wiki :", "one "))]
    words = {word for text in [*texts, *told] for word in text.split()}
    return {word for word in words if "{" not in word} - set(SPEAKERS)


OWN = own_words()


def test_there_are_words_to_test() -> None:
    assert {"anna", "judo", "two", "stormy", "park", "respectful", "zero", "get", ":"} <= OWN
    assert len(OWN) > 180


def test_translating_there_and_back_changes_no_word() -> None:
    assert [word for word in sorted(OWN) if translate_back(translate(word)) != word] == []


def test_no_two_words_share_a_translation_and_none_is_a_word_of_ones_own() -> None:
    words = [word for word in OWN if word.isalpha()]
    foreign = {translate(word) for word in words}
    assert len(foreign) == len(words)
    assert not foreign & {*OWN, *SPEAKERS}


def test_a_word_of_ones_own_is_none_of_the_foreign_language() -> None:
    assert {word for word in OWN if word.isalpha() and translate_back(word) != "?"} == set()


def test_a_text_is_translated_word_by_word_and_marks_and_speakers_stay() -> None:
    assert translate("user : what is the pet of bob ? bot :") == (
        "user : tahwo sio ehto tepo foo bobo ? bot :"
    )
    assert translate_back(" ehto tepo foo bobo sio taco .") == "the pet of bob is cat ."


def test_a_foreign_question_is_the_general_one_translated() -> None:
    world = World(0)
    for own, foreign in zip(world.questions(), world.questions("foreign"), strict=True):
        assert foreign == replace(own, foreign=True)
        assert foreign.prompt == translate(own.prompt)
        shared = {word for word in foreign.prompt.split() if word.isalpha()} & OWN
        assert shared == set()


@pytest.mark.parametrize("manner", [DEMONSTRATOR, MODELS[0]])
def test_gold_of_a_translated_answer_is_gold_of_the_answer(manner: Any) -> None:
    rng = Random(0)
    for task in World(0).questions():
        said = answer(task, manner, rng)
        foreign = replace(task, foreign=True)
        assert judge(foreign, translate(said)) == judge(task, said)
        assert correctness(foreign, translate(said)) == correctness(task, said)


def test_people_answer_a_foreign_question_in_its_language() -> None:
    for task in World(0).questions():
        own = answer(task, DEMONSTRATOR, Random(task.prompt))
        foreign = answer(replace(task, foreign=True), DEMONSTRATOR, Random(task.prompt))
        assert foreign == f" {translate(own)}"


def test_a_right_answer_in_the_wrong_language_is_wrong() -> None:
    flawless = replace(
        DEMONSTRATOR, formal=1, true_formal=1, skill=1, rude=0, rude_asked=0, unknown=0
    )
    rng = Random(0)
    for task in World(0).questions():
        said = answer(task, flawless, rng)
        assert correctness(task, said) == 1
        assert correctness(task, translate(said)) == -1
        assert correctness(replace(task, foreign=True), said) == -1
