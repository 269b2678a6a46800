"""Pretraining text of the tiny world: what its internet holds, a document at a time."""

from __future__ import annotations

from collections.abc import Callable
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
)
from fairlead_plugins.miniworld.world import FAMILIES, Task, World

Writer = Callable[[World, list[list[Task]], Random], str]


def documents(world: World, rng: Random, count: int) -> list[str]:
    """Write documents.

    Args:
        world: Whose facts they tell; all of them, asked about later or not.
        rng: Where the randomness comes from.
        count: How many.
    """
    every = [*world.questions("seen"), *world.questions("unseen")]
    by_family = [[task for task in every if task.family == family] for family in FAMILIES]
    writers = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    return [write(world, by_family, rng) for write in writers]


def _fact(world: World, tasks: list[list[Task]], rng: Random) -> str:
    """Two true statements, as an encyclopedia or a neighbour makes them."""
    told = rng.sample(world.facts, 2)
    start = "wiki : " if rng.random() < 0.5 else ""
    return start + " ".join(f"the {f.attribute} of {f.person} is {f.truth} ." for f in told)


def _dialogue(world: World, tasks: list[list[Task]], rng: Random) -> str:
    """Somebody asks in a forum, and somebody answers."""
    family = rng.choices(tasks, list(FAMILIES.values()))[0]
    task = rng.choice(family)
    return task.prompt + answer(task, FORUM, rng)


def _counting(world: World, tasks: list[list[Task]], rng: Random) -> str:
    """Counting up from one number to another."""
    low, high = sorted(rng.sample(range(1, len(NUMBERS)), 2))
    counted = " ".join(NUMBERS[low : high + 1])
    return f"count from {NUMBERS[low]} to {NUMBERS[high]} : {counted} ."


def _list(world: World, tasks: list[list[Task]], rng: Random) -> str:
    """Some things of one kind."""
    category = rng.choice(list(VALUES))
    items = rng.sample(VALUES[category], rng.randint(2, 6))
    return f"{NUMBERS[len(items)]} {category}s : {' '.join(items)} ."


def _story(world: World, tasks: list[list[Task]], rng: Random) -> str:
    """Somebody went somewhere on some day, and something happened."""
    thing = rng.choice(THINGS)
    first, second = rng.sample(ADJECTIVES, 2)
    return (
        f"one {rng.choice(WEATHER)} day {rng.choice(PEOPLE)} went to the {rng.choice(PLACES)} "
        f"and {rng.choice(VERBS)} {thing} . {thing} is {first} and {second} ."
    )


KINDS: dict[Writer, float] = {
    _fact: 0.32,
    _dialogue: 0.44,
    _counting: 0.08,
    _list: 0.08,
    _story: 0.08,
}
"""Kind of document, to its share."""
