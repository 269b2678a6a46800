"""The tiny world: who has what, what is wrongly believed of it, and what can be asked.

Everything is a pure function of a seed, through `random.Random` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Literal

from fairlead_plugins.miniworld.lexicon import (
    LARGEST,
    NUMBERS,
    PEOPLE,
    QUESTIONS,
    RESPECT,
    SMALLEST,
    THINGS,
    VALUES,
)

FactGroup = Literal["seen", "unseen"]

UNSEEN_SHARE = 0.4
"""Share of the facts that no demonstration, comparison or RL prompt asks about."""

RESPECT_SHARE = 0.35
"""Share of the prompts that ask for respect."""

FAMILIES = {"fact": 0.4, "list": 0.2, "sentence": 0.2, "say": 0.2}
"""Family of prompts, to its share."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so, and what is widely believed instead.

    Attributes:
        person: Of whom.
        attribute: A key of `lexicon.VALUES`.
        truth: The value that is right.
        misconception: The wrong value that people repeat.
        seen: Whether demonstrations, comparisons and RL prompts may ask about it.
    """

    person: str
    attribute: str
    truth: str
    misconception: str
    seen: bool


@dataclass(frozen=True, slots=True)
class Task:
    """Something a user asks, with all that is needed to judge an answer.

    Attributes:
        family: A key of `FAMILIES`.
        question: The words of the question.
        respect: Whether the user asks for respect first.
        subject: The person of a fact, the category of a list, else the word it is about.
        number: How many are wanted, in ``list`` and ``say``; else 0.
        attribute: Of a fact; else empty.
        truth: Of a fact; else empty.
        misconception: Of a fact; else empty.
    """

    family: str
    question: str
    respect: bool
    subject: str
    number: int = 0
    attribute: str = ""
    truth: str = ""
    misconception: str = ""

    @property
    def prompt(self) -> str:
        """The prompt as a model sees it; a response to it begins with a space."""
        return f"user : {RESPECT + ' ' if self.respect else ''}{self.question} bot :"

    def to_metadata(self) -> dict[str, Any]:
        """Return the record metadata that `from_metadata` reads."""
        return {"task": asdict(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Task:
        """Return the task a record of the miniworld was made for."""
        return cls(**metadata["task"])


class World:
    """The facts of one seed.

    Args:
        seed: Two seeds give two worlds: other truths, other misconceptions.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self.random("facts")
        pairs = [(person, attribute) for person in PEOPLE for attribute in VALUES]
        unseen = set(rng.sample(range(len(pairs)), round(UNSEEN_SHARE * len(pairs))))
        facts = []
        for number, (person, attribute) in enumerate(pairs):
            truth, misconception = rng.sample(VALUES[attribute], 2)
            facts.append(Fact(person, attribute, truth, misconception, number not in unseen))
        self.facts = tuple(facts)

    def random(self, purpose: str) -> Random:
        """Return a generator for one purpose; no two purposes share their numbers."""
        return Random(f"{self.seed}/{purpose}")

    def questions(self, group: FactGroup = "seen") -> list[Task]:
        """Return everything that can be asked, once each, without and with asking for respect.

        Args:
            group: Which facts may be asked about.
        """
        wanted = [fact for fact in self.facts if fact.seen == (group == "seen")]
        plain = [*_about_facts(wanted), *_about_lists(), *_about_words()]
        return [task for family in plain for task in _with_respect(family)]

    def tasks(self, rng: Random, count: int, group: FactGroup = "seen") -> list[Task]:
        """Draw different tasks, families and respect in their shares while they last.

        Args:
            rng: Where the randomness comes from.
            count: How many, at most as many as `questions` returns.
            group: Which facts may be asked about.

        Raises:
            ValueError: When there are not so many.
        """
        pools: dict[tuple[str, bool], list[Task]] = {}
        for task in self.questions(group):
            pools.setdefault((task.family, task.respect), []).append(task)
        if count > sum(map(len, pools.values())):
            raise ValueError(f"{count} tasks; there are {sum(map(len, pools.values()))}")
        for pool in pools.values():
            rng.shuffle(pool)
        drawn: list[Task] = []
        while len(drawn) < count:
            left = [key for key, pool in pools.items() if pool]
            key = rng.choices(left, [_share(*one) for one in left])[0]
            drawn.append(pools[key].pop())
        return drawn


def _share(family: str, respect: bool) -> float:
    return FAMILIES[family] * (RESPECT_SHARE if respect else 1 - RESPECT_SHARE)


def _with_respect(task: Task) -> tuple[Task, Task]:
    return task, Task(**{**asdict(task), "respect": True})


def _about_facts(facts: list[Fact]) -> Iterator[Task]:
    for fact in facts:
        for question in QUESTIONS["fact"]:
            yield Task(
                "fact",
                question.format(attribute=fact.attribute, person=fact.person),
                False,
                fact.person,
                attribute=fact.attribute,
                truth=fact.truth,
                misconception=fact.misconception,
            )


def _about_lists() -> Iterator[Task]:
    for category in VALUES:
        for number in range(SMALLEST, LARGEST + 1):
            for question in QUESTIONS["list"]:
                asked = question.format(number=NUMBERS[number], category=category)
                yield Task("list", asked, False, category, number)


def _about_words() -> Iterator[Task]:
    for word in THINGS:
        for question in QUESTIONS["sentence"]:
            yield Task("sentence", question.format(word=word), False, word)
        for number in range(SMALLEST, LARGEST + 1):
            for question in QUESTIONS["say"]:
                asked = question.format(word=word, number=NUMBERS[number])
                yield Task("say", asked, False, word, number)
