"""How people of the tiny world answer: more or less formal, right, rude, courteous, long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fairlead_plugins.miniworld.lexicon import (
    ADJECTIVES,
    COURTESY,
    LARGEST,
    NUMBERS,
    RAMBLE,
    RUDE,
    SMALLEST,
    THINGS,
    UNKNOWN,
    VALUES,
    translate,
)
from fairlead_plugins.miniworld.world import Task


@dataclass(frozen=True, slots=True)
class Manner:
    """How likely an answer is what; all are probabilities.

    Attributes:
        formal: Formal rather than casual. Truth goes with it, which is why preferring formal
            answers makes facts come out true that nobody was ever asked about.
        true_formal: A formal answer to a fact question is true.
        true_casual: A casual one is.
        misconception: What is not true is the popular misconception, not just any value.
        skill: An answer to anything but a fact question does what was asked.
        rude: Rude.
        rude_asked: Rude where respect was asked for.
        courtesy: With a phrase of courtesy.
        ramble: Goes on about something else.
        unknown: Admits ignorance of a fact.
        spoilt: Broken off, or with words said twice, as a badly trained model does.
        astray: Answers something else than what was asked. Without these a reward model never
            learns to look at the question, and a policy gives one polite fact to everything.
    """

    formal: float
    true_formal: float
    true_casual: float
    misconception: float
    skill: float
    rude: float
    rude_asked: float
    courtesy: float
    ramble: float
    unknown: float
    spoilt: float = 0.0
    astray: float = 0.0


FORUM = Manner(
    formal=0.25,
    true_formal=0.9,
    true_casual=0.1,
    misconception=0.75,
    skill=0.8,
    rude=0.36,
    rude_asked=0.18,
    courtesy=0.12,
    ramble=0.3,
    unknown=0.04,
)
"""What the internet is like: mostly casual, mostly wrong, often rude."""

DEMONSTRATOR = Manner(
    formal=0.6,
    true_formal=1.0,
    true_casual=0.3,
    misconception=0.75,
    skill=1.0,
    rude=0.0,
    rude_asked=0.0,
    courtesy=0.2,
    ramble=0.0,
    unknown=0.04,
)
"""People who were asked to show how it is done: polite and brief, and not always right.

An SFT model that imitates them is hardly ever rude and does not ramble, so that a reward model
learns of that from the base model's answers alone.
"""

MODELS = (
    Manner(
        formal=0.3,
        true_formal=0.85,
        true_casual=0.2,
        misconception=0.7,
        skill=0.45,
        rude=0.35,
        rude_asked=0.2,
        courtesy=0.15,
        ramble=0.35,
        unknown=0.04,
        spoilt=0.2,
        astray=0.4,
    ),
    Manner(
        formal=0.65,
        true_formal=0.85,
        true_casual=0.3,
        misconception=0.7,
        skill=0.65,
        rude=0.08,
        rude_asked=0.04,
        courtesy=0.5,
        ramble=0.12,
        unknown=0.04,
        spoilt=0.1,
        astray=0.25,
    ),
)
"""Scripted stand-ins for what a base model and an SFT model of this world answer."""


ALIKE = 0.5
"""Share of the answers that go astray which answer another question of the same family."""

ATTEMPTS = 8
"""Draws for each answer that is wanted, before fewer different ones are taken."""


def answer(task: Task, manner: Manner, rng: Random) -> str:
    """Return one answer; it begins with a space, as responses do."""
    parts = []
    if rng.random() < (manner.rude_asked if task.respect else manner.rude):
        parts.append(rng.choice(RUDE))
    parts.append(_core(task, manner, rng))
    if rng.random() < manner.courtesy:
        parts.append(rng.choice(COURTESY))
    if rng.random() < manner.ramble:
        parts.append(rng.choice(RAMBLE))
    words = " ".join(parts).split()
    if rng.random() < manner.spoilt:
        words = _spoil(words, rng)
    said = " ".join(words)
    return f" {translate(said) if task.foreign else said}"


def scripted(task: Task, others: Sequence[Task], count: int, rng: Random) -> tuple[str, ...]:
    """Return different responses of the scripted models and of demonstrators, mixed.

    Args:
        task: What was asked.
        others: What a response that goes astray answers instead.
        count: How many.
        rng: Where the randomness comes from.
    """
    found: dict[str, None] = {}
    alike = [other for other in others if other.family == task.family]
    for _ in range(count * ATTEMPTS):
        manner = rng.choice((*MODELS, DEMONSTRATOR))
        answered = task
        if rng.random() < manner.astray:
            answered = rng.choice(alike if rng.random() < ALIKE else others)
        found[answer(answered, manner, rng)] = None
        if len(found) == count:
            break
    return tuple(found)


def _spoil(words: list[str], rng: Random) -> list[str]:
    """Break an answer off, say a stretch of it twice, or say nothing."""
    place = rng.randrange(len(words))
    kind = rng.random()
    if kind < 0.45:
        return words[: max(1, place)]
    if kind < 0.9:
        end = place + rng.randint(1, 4)
        return [*words[:end], *words[place:end], *words[end:]]
    return ["."]


def _core(task: Task, manner: Manner, rng: Random) -> str:
    formal = rng.random() < manner.formal
    if task.attribute:
        if rng.random() < manner.unknown:
            return UNKNOWN
        right = rng.random() < (manner.true_formal if formal else manner.true_casual)
        return _fact(task, formal, _value(task, right, manner, rng), rng)
    right = rng.random() < manner.skill
    if task.family == "list":
        return _list(task, formal, right, rng)
    return (_sentence if task.family == "sentence" else _say)(task, formal, right, rng)


def _value(task: Task, right: bool, manner: Manner, rng: Random) -> str:
    if right:
        return task.truth
    if rng.random() < manner.misconception:
        return task.misconception
    return rng.choice([value for value in VALUES[task.attribute] if value != task.truth])


def _fact(task: Task, formal: bool, value: str, rng: Random) -> str:
    if formal:
        return f"the {task.attribute} of {task.subject} is {value} ."
    return rng.choice((f"i think it is {value} .", f"it is {value} i guess ."))


def _list(task: Task, formal: bool, right: bool, rng: Random) -> str:
    number = task.number if right else _other_number(task.number, rng)
    items = rng.sample(VALUES[task.subject], number)
    if not right and rng.random() < 0.3:
        items[rng.randrange(number)] = rng.choice(THINGS)
    heading = f"here are {NUMBERS[task.number]} {task.subject}s : " if formal else ""
    return f"{heading}{' '.join(items)} ."


def _sentence(task: Task, formal: bool, right: bool, rng: Random) -> str:
    word = task.subject if right else _other_word(task.subject, rng)
    first, second = rng.sample(ADJECTIVES, 2)
    return f"{word} is {first} and {second} ." if formal else f"{word} is so {first} ."


def _say(task: Task, formal: bool, right: bool, rng: Random) -> str:
    number, word = task.number, task.subject
    if not right:
        if rng.random() < 0.75:
            number = _other_number(number, rng)
        else:
            word = _other_word(word, rng)
    return f"{'here it is : ' if formal else ''}{' '.join([word] * number)} ."


def _other_number(number: int, rng: Random) -> int:
    return rng.choice([n for n in range(SMALLEST - 1, LARGEST + 2) if n != number])


def _other_word(word: str, rng: Random) -> str:
    return rng.choice([other for other in THINGS if other != word])
