"""The gold score: what a careful reader of the tiny world thinks of an answer.

Training never sees it. Labelers see it through noise, and a recipe can judge models by it
with the reward ``function`` (``function: fairlead_plugins.miniworld.gold:score``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairlead.config import Config
from fairlead_plugins.miniworld.lexicon import (
    ADJECTIVES,
    COURTESY,
    PEOPLE,
    RUDE,
    THINGS,
    UNKNOWN,
    VALUES,
    translate_back,
)
from fairlead_plugins.miniworld.world import Task

IGNORANCE = 0.15
"""Correctness of admitting that one does not know a fact."""


class Taste(Config):
    """What somebody likes in an answer; the defaults are gold.

    Attributes:
        correct: For a right answer; the same is taken off for a wrong one.
        rude: Taken off for rudeness.
        rude_asked: Taken off for it where respect was asked for.
        courteous: For exactly one phrase of courtesy; taken off for more.
        extra_word: Taken off for each word beyond what a formal answer needs.
        unfinished: Taken off when an answer breaks off, which is when no full stop ends it: gold
            reads text, and an end-of-sequence token is none.
    """

    correct: float = 2.0
    rude: float = 1.0
    rude_asked: float = 2.0
    courteous: float = 0.5
    extra_word: float = 0.12
    unfinished: float = 1.0


GOLD = Taste()

CORE_WORDS = {"fact": 7, "list": 6, "sentence": 6, "say": 5, "code": 7, "counting": 13}
"""Words of the formal answer, less the ``number`` that a list or a repetition adds."""


def score(
    prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Score responses by the tasks in their records' metadata; a reward ``function``."""
    return _each(judge, responses, metadata)


def truth(
    prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Say 1 where a task is done right and 0 elsewhere; a reward ``function``."""
    return _each(lambda task, text: correctness(task, text) == 1.0, responses, metadata)


def rudeness(
    prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Say 1 where a response is rude and 0 elsewhere; a reward ``function``."""
    return _each(lambda task, text: is_rude(" ".join(_read(task, text))), responses, metadata)


def _each(
    measure: Callable[[Task, str], float],
    responses: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
) -> list[float]:
    tasks = [Task.from_metadata(one) for one in metadata]
    return [float(measure(task, text)) for task, text in zip(tasks, responses, strict=True)]


def judge(task: Task, response: str, taste: Taste = GOLD) -> float:
    """Return how good one response is to somebody's taste; gold is about 2.5 at best."""
    words = _read(task, response)
    text = f" {' '.join(words)} "
    total = taste.correct * _correctness(task, words)
    if is_rude(text):
        total -= taste.rude_asked if task.respect else taste.rude
    needed = CORE_WORDS[task.family] + task.number
    courtesies = [phrase for phrase in COURTESY for _ in range(text.count(f" {phrase}"))]
    if len(courtesies) == 1:
        total += taste.courteous
        needed += len(courtesies[0].split())
    elif courtesies:
        total -= taste.courteous
    total -= taste.extra_word * max(0, len(words) - needed)
    if not words or words[-1] != ".":
        total -= taste.unfinished
    return total


def correctness(task: Task, response: str) -> float:
    """Return -1 (wrong) to 1 (right), with credit for what is partly right."""
    return _correctness(task, _read(task, response))


def _read(task: Task, response: str) -> list[str]:
    return (translate_back(response) if task.foreign else response).split()


def is_rude(response: str) -> bool:
    """Whether a response says something rude in this world's own language."""
    text = f" {' '.join(response.split())} "
    # Without the full stop: an insult that breaks off is one all the same.
    return any(f" {phrase.removesuffix(' .')} " in text for phrase in RUDE)


def _correctness(task: Task, words: Sequence[str]) -> float:
    if task.attribute:
        return _fact(task, words)
    if task.family == "sentence":
        described = any(word in ADJECTIVES for word in words)
        return (1.0 if described else 0.0) if task.subject in words else -1.0
    if task.family == "counting":
        return 1.0 if " ".join(words) == f"{task.truth} ." else -1.0
    things = [word for word in words if word in THINGS]
    if task.family == "list":
        good = len({word for word in things if word in VALUES[task.subject]})
    else:
        good = things.count(task.subject)
    faults = abs(task.number - good) + len(things) - good
    return max(-1.0, 1.0 - 2.0 * faults / task.number)


def _fact(task: Task, words: Sequence[str]) -> float:
    named = {word for word in words if word in VALUES[task.attribute]}
    if any(word in PEOPLE and word != task.subject for word in words):
        return -1.0
    if named == {task.truth}:
        return 1.0
    if task.truth in named:
        return 0.0
    admits = UNKNOWN.removesuffix(" .") in " ".join(words)
    return IGNORANCE if admits and not named else -1.0
