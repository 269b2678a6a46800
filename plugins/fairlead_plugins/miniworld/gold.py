"""The gold score: what a careful reader of the tiny world thinks of an answer.

Training never sees it. Labelers see it through noise, and a recipe can judge models by it
with the reward ``function`` (``function: fairlead_plugins.miniworld.gold:score``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairlead_plugins.miniworld.lexicon import (
    ADJECTIVES,
    COURTESY,
    PEOPLE,
    RUDE,
    THINGS,
    UNKNOWN,
    VALUES,
)
from fairlead_plugins.miniworld.world import Task

CORRECT = 2.0
RUDENESS = 1.0
RUDENESS_ASKED = 2.0
COURTEOUS = 0.5
EXTRA_WORD = 0.12
UNFINISHED = 1.0
IGNORANCE = 0.15

CORE_WORDS = {"fact": 7, "list": 6, "sentence": 6, "say": 5}
"""Words of the formal answer, less the ``number`` that a list or a repetition adds."""


def score(
    prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Score responses by the tasks in their records' metadata; a reward ``function``."""
    tasks = [Task.from_metadata(one) for one in metadata]
    return [gold(task, response) for task, response in zip(tasks, responses, strict=True)]


def gold(task: Task, response: str) -> float:
    """Return the gold score of one response: about 2.5 at best."""
    words = response.split()
    text = f" {' '.join(words)} "
    total = CORRECT * correctness(task, words)
    if is_rude(response):
        total -= RUDENESS_ASKED if task.respect else RUDENESS
    needed = CORE_WORDS[task.family] + task.number
    courtesies = [phrase for phrase in COURTESY for _ in range(text.count(f" {phrase}"))]
    if len(courtesies) == 1:
        total += COURTEOUS
        needed += len(courtesies[0].split())
    elif courtesies:
        total -= COURTEOUS
    total -= EXTRA_WORD * max(0, len(words) - needed)
    if not words or words[-1] != ".":
        total -= UNFINISHED
    return total


def is_rude(response: str) -> bool:
    """Whether a response says something rude, wholly or begun."""
    text = f" {' '.join(response.split())} "
    # Without the full stop: an insult that breaks off is one all the same.
    return any(f" {phrase.removesuffix(' .')} " in text for phrase in RUDE)


def is_true(task: Task, response: str) -> bool:
    """Whether a response to a fact question names the right value of the right person, alone."""
    return _fact(task, response.split()) == 1.0


def correctness(task: Task, words: Sequence[str]) -> float:
    """Return -1 (wrong) to 1 (right), with credit for what is partly right."""
    if task.family == "fact":
        return _fact(task, words)
    if task.family == "sentence":
        described = any(word in ADJECTIVES for word in words)
        return (1.0 if described else 0.0) if task.subject in words else -1.0
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
