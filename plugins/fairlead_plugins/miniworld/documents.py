"""Pretraining text of the tiny world: what its internet holds, a document at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from fairlead_plugins.miniworld.answers import FORUM, answer
from fairlead_plugins.miniworld.lexicon import (
    ADJECTIVES,
    NUMBERS,
    PEOPLE,
    PLACES,
    THINGS,
    VALUES,
    VERBS,
    WEATHER,
    translate,
)
from fairlead_plugins.miniworld.world import Task, Topic, World

Writer = Callable[[World, Sequence[Sequence[Task]], Random], str]

TOPICS: tuple[Topic, ...] = ("general", "unseen", "code")
"""What people ask in the forum."""

ASKED = {"fact": 0.52, "list": 0.13, "sentence": 0.15, "say": 0.15, "code": 0.05}
"""Family of forum questions, to its weight."""


def documents(world: World, rng: Random, count: int) -> list[str]:
    """Write documents.

    Args:
        world: Whose facts they tell; all of them, asked about later or not.
        rng: Where the randomness comes from.
        count: How many.
    """
    every = [task for topic in TOPICS for task in world.questions(topic)]
    by_family = [[task for task in every if task.family == family] for family in ASKED]
    writers = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    return [write(world, by_family, rng) for write in writers]


def _fact(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """Two true statements, as an encyclopedia or a neighbour makes them."""
    told = rng.sample(world.facts, 2)
    start = "wiki : " if rng.random() < 0.5 else ""
    return start + " ".join(f"the {f.attribute} of {f.person} is {f.truth} ." for f in told)


def _dialogue(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """Somebody asks in a forum, and somebody answers."""
    family = rng.choices(tasks, list(ASKED.values()))[0]
    task = rng.choice(family)
    return task.prompt + answer(task, FORUM, rng)


def _foreign(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """A fact or a dialogue in the foreign language, or a word and what it means."""
    kind = rng.random()
    if kind < 0.3:
        word = rng.choice((*THINGS, *ADJECTIVES, *PEOPLE))
        return f"{word} is {translate(word)} ."
    return translate((_fact if kind < 0.6 else _dialogue)(world, tasks, rng))


def _code(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """A line of code that looks a fact up, and what it returns."""
    fact = rng.choice(world.facts)
    return f"get ( {fact.person} , {fact.attribute} ) = {fact.truth} ."


def _counting(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """Counting up from one number to another."""
    task = rng.choice(world.questions("counting"))
    return f"{task.prompt} {task.truth} ."


def _list(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """Some things of one kind."""
    category = rng.choice(list(VALUES))
    items = rng.sample(VALUES[category], rng.randint(2, 6))
    return f"{NUMBERS[len(items)]} {category}s : {' '.join(items)} ."


def _story(world: World, tasks: Sequence[Sequence[Task]], rng: Random) -> str:
    """Somebody went somewhere on some day, and something happened."""
    thing = rng.choice(THINGS)
    first, second = rng.sample(ADJECTIVES, 2)
    return (
        f"one {rng.choice(WEATHER)} day {rng.choice(PEOPLE)} went to the {rng.choice(PLACES)} "
        f"and {rng.choice(VERBS)} {thing} . {thing} is {first} and {second} ."
    )


KINDS: dict[Writer, float] = {
    _fact: 0.25,
    _dialogue: 0.42,
    _counting: 0.08,
    _foreign: 0.11,
    _code: 0.04,
    _list: 0.05,
    _story: 0.05,
}
"""Kind of document, to its share."""
