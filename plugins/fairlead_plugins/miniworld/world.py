"""The tiny world: who has what, what is wrongly believed of it, and what can be asked.

Everything is a pure function of a seed, through `random.Random` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain, combinations
from random import Random
from typing import Any, Literal

from fairlead.errors import DataError
from fairlead_plugins.miniworld.lexicon import (
    LARGEST,
    NUMBERS,
    PEOPLE,
    QUESTIONS,
    RESPECT,
    SMALLEST,
    THINGS,
    VALUES,
    translate,
)

Topic = Literal["general", "unseen", "respect", "code", "foreign", "counting"]
"""What may be asked.

``general``: what RLHF asks, the four `FAMILIES`. ``respect``: those of them that ask for respect.
The others are never in RLHF data: ``unseen`` facts, ``code``-like questions about facts,
``general`` ones in the ``foreign`` language, and ``counting``, which is no dialogue.
"""

UNSEEN_SHARE = 0.4
"""Share of the facts that no demonstration, comparison or RL prompt asks about."""

RESPECT_SHARE = 0.35
"""Share of the prompts that ask for respect, while both kinds last: half of all there are do."""

FAMILIES = {"fact": 0.4, "list": 0.2, "sentence": 0.2, "say": 0.2}
"""Family of general prompts, to its share while all of them last."""


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
        family: A key of `FAMILIES`, ``code`` or ``counting``.
        question: The words of the question.
        respect: Whether the user asks for respect first.
        subject: The person of a fact, the category of a list, else the word it is about.
        number: How many are wanted, in ``list`` and ``say``; else 0.
        attribute: Of a fact, whose questions are ``fact`` and ``code``; else empty.
        truth: Of a fact, or the numbers to count; else empty.
        misconception: Of a fact; else empty.
        foreign: Whether it is asked, and to be answered, in the foreign language.
    """

    family: str
    question: str
    respect: bool
    subject: str
    number: int = 0
    attribute: str = ""
    truth: str = ""
    misconception: str = ""
    foreign: bool = False

    @property
    def prompt(self) -> str:
        """The prompt as a model sees it; a response to it begins with a space."""
        if self.family == "counting":
            return self.question
        text = f"user : {RESPECT + ' ' if self.respect else ''}{self.question} bot :"
        return translate(text) if self.foreign else text

    def to_metadata(self) -> dict[str, Any]:
        """Return the record metadata that `from_metadata` reads, and what it is a case of."""
        return {"task": asdict(self), "about": f"{self.family} {self.attribute} {self.subject}"}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Task:
        """Return the task a record of the miniworld was made for.

        Raises:
            DataError: When the record is none of the miniworld's.
        """
        try:
            return cls(**metadata["task"])
        except (KeyError, TypeError):
            given = repr(metadata["task"]) if "task" in metadata else "missing"
            raise DataError(
                f"the 'task' in a record's metadata is {given}, so it is none of the miniworld's. "
                "Take the prompts from miniworld_prompts, or another judge than gold."
            ) from None


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

    def questions(self, topic: Topic = "general") -> list[Task]:
        """Return everything of a topic, once each, without and with asking for respect."""
        if topic == "counting":
            return list(_to_count())
        if topic == "foreign":
            return [replace(task, foreign=True) for task in self.questions()]
        if topic == "respect":
            return [task for task in self.questions() if task.respect]
        if topic == "code":
            plain = list(_about_facts(self.facts, "code"))
        elif topic == "unseen":
            plain = list(_about_facts([fact for fact in self.facts if not fact.seen], "fact"))
        else:
            seen = [fact for fact in self.facts if fact.seen]
            words = (_about_words(family) for family in ("sentence", "say"))
            plain = [*_about_facts(seen, "fact"), *_about_lists(), *chain(*words)]
        return [case for task in plain for case in (task, replace(task, respect=True))]

    def tasks(self, rng: Random, count: int, topic: Topic = "general") -> list[Task]:
        """Draw different tasks, families and respect in their shares while they last.

        Args:
            rng: Where the randomness comes from.
            count: How many, at most as many as `questions` returns.
            topic: What may be asked.

        Raises:
            ValueError: When there are not so many.
        """
        pools: dict[tuple[str, bool], list[Task]] = {}
        for task in self.questions(topic):
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
    return FAMILIES.get(family, 1.0) * (RESPECT_SHARE if respect else 1 - RESPECT_SHARE)


def _about_facts(facts: Sequence[Fact], family: str) -> Iterator[Task]:
    for fact in facts:
        for question in QUESTIONS[family]:
            yield Task(
                family,
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


def _about_words(family: str) -> Iterator[Task]:
    for word in THINGS:
        for question in QUESTIONS[family]:
            if family == "sentence":
                yield Task(family, question.format(word=word), False, word)
                continue
            for number in range(SMALLEST, LARGEST + 1):
                asked = question.format(word=word, number=NUMBERS[number])
                yield Task(family, asked, False, word, number)


@cache  # every document that counts draws from it
def _to_count() -> tuple[Task, ...]:
    return tuple(
        Task(
            "counting",
            f"count from {NUMBERS[low]} to {NUMBERS[high]} :",
            False,
            NUMBERS[high],
            truth=" ".join(NUMBERS[low : high + 1]),
        )
        for low, high in combinations(range(1, len(NUMBERS)), 2)
    )
