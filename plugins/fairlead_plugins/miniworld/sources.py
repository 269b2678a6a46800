"""The miniworld as data sources: text, demonstrations, comparisons and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pydantic import Field, model_validator

from fairlead.config import Config
from fairlead.errors import DataError
from fairlead.records import Comparison, Demonstration, Prompt, Record, Text, Turn
from fairlead_plugins.miniworld.answers import DEMONSTRATOR, MODELS, answer
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.gold import gold
from fairlead_plugins.miniworld.labelers import Labeler, LabelerConfig
from fairlead_plugins.miniworld.world import FactGroup, Task, World

ALIKE = 0.5
"""Share of the answers that go astray which answer another question of the same family."""

ATTEMPTS = 8
"""Draws for each answer that is wanted, before fewer different ones are taken."""


class WorldConfig(Config):
    """Settings of every source of the miniworld.

    Attributes:
        seed: Which world. Sources of one recipe take the same, so that they tell and ask of
            the same facts.
    """

    seed: int = Field(default=0, ge=0)


class TextConfig(WorldConfig):
    """Settings of ``miniworld_text``.

    Attributes:
        documents: How many; about 16 words each.
    """

    documents: int = Field(default=8000, ge=1)


class TextSource:
    """Pretraining text: true facts, a forum full of misconceptions, counting, lists, stories."""

    Config = TextConfig

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Write the documents."""
        world = World(self.config.seed)
        texts = documents(world, world.random("text"), self.config.documents)
        return [
            Text(turns=(Turn("user", text),), origin=f"miniworld_text:{number}")
            for number, text in enumerate(texts)
        ]


class DemonstrationConfig(WorldConfig):
    """Settings of ``miniworld_demonstrations``.

    Attributes:
        count: How many, each to a prompt of its own.
    """

    count: int = Field(default=300, ge=1)


class DemonstrationSource:
    """Prompts with an answer to imitate: mostly polite and right, not always."""

    Config = DemonstrationConfig

    def __init__(self, config: DemonstrationConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Write the demonstrations.

        Raises:
            DataError: When there are not so many prompts.
        """
        world = World(self.config.seed)
        rng = world.random("demonstrations")
        tasks = _tasks(world, rng, self.config.count, "miniworld_demonstrations: count")
        return [
            Demonstration(
                turns=(Turn("user", task.prompt), Turn("assistant", _demonstrate(task, rng))),
                origin=f"miniworld_demonstrations:{number}",
                metadata=task.to_metadata(),
            )
            for number, task in enumerate(tasks)
        ]


def _demonstrate(task: Task, rng: Random) -> str:
    return answer(task, DEMONSTRATOR, rng)


class ComparisonConfig(WorldConfig):
    """Settings of ``miniworld_comparisons``.

    Attributes:
        count: How many prompts.
        fewest: Fewest responses to a prompt (paper: 4).
        most: Most responses to a prompt (paper: 9).
        labeler: Who ranks them.
    """

    count: int = Field(default=800, ge=1)
    fewest: int = Field(default=4, ge=2)
    most: int = Field(default=9, ge=2)
    labeler: LabelerConfig = LabelerConfig()

    @model_validator(mode="after")
    def _in_order(self) -> ComparisonConfig:
        if self.fewest > self.most:
            raise ValueError(
                f"fewest={self.fewest} is more than most={self.most}; lower fewest or raise most"
            )
        return self


class ComparisonSource:
    """Prompts with scripted responses, good and bad, ranked by a noisy labeler."""

    Config = ComparisonConfig

    def __init__(self, config: ComparisonConfig) -> None:
        self.config = config
        self.labeler = Labeler(config.labeler)

    def load(self) -> Sequence[Record]:
        """Write the comparisons.

        Raises:
            DataError: When there are not so many prompts.
        """
        world = World(self.config.seed)
        rng = world.random("comparisons")
        tasks = _tasks(world, rng, self.config.count, "miniworld_comparisons: count")
        # The labeler's noise has numbers of its own: another labeler ranks the same responses.
        labels = world.random("labels")
        return [
            self._compare(task, f"miniworld_comparisons:{number}", tasks, rng, labels)
            for number, task in enumerate(tasks)
        ]

    def _compare(
        self, task: Task, origin: str, others: Sequence[Task], rng: Random, labels: Random
    ) -> Comparison:
        count = rng.randint(self.config.fewest, self.config.most)
        responses = _responses(task, others, count, rng)
        scores = [gold(task, response) for response in responses]
        return Comparison(
            turns=(Turn("user", task.prompt),),
            responses=responses,
            ranks=self.labeler.rank(scores, labels),
            origin=origin,
            metadata=task.to_metadata(),
        )


def _responses(task: Task, others: Sequence[Task], count: int, rng: Random) -> tuple[str, ...]:
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


class PromptConfig(WorldConfig):
    """Settings of ``miniworld_prompts``.

    Attributes:
        count: How many, all different.
        facts: ``seen``: fact questions are of the facts that demonstrations and comparisons
            ask about too; ``unseen``: of those that nothing but the pretraining text tells.
    """

    count: int = Field(default=900, ge=1)
    facts: FactGroup = "seen"


class PromptSource:
    """What users ask: facts, lists, sentences, repetitions; a third asks for respect."""

    Config = PromptConfig

    def __init__(self, config: PromptConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Write the prompts.

        Raises:
            DataError: When there are not so many.
        """
        world = World(self.config.seed)
        rng = world.random("prompts")
        tasks = _tasks(world, rng, self.config.count, "miniworld_prompts: count", self.config.facts)
        return [
            Prompt(
                turns=(Turn("user", task.prompt),),
                origin=f"miniworld_prompts:{number}",
                metadata=task.to_metadata(),
            )
            for number, task in enumerate(tasks)
        ]


def _tasks(
    world: World, rng: Random, count: int, what: str, group: FactGroup = "seen"
) -> list[Task]:
    there = len(world.questions(group))
    if count > there:
        raise DataError(
            f"{what}={count}: the miniworld has {there} different prompts of that kind. Ask for "
            "at most so many."
        )
    return world.tasks(rng, count, group)
