"""The miniworld as data sources: text, demonstrations, comparisons and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pydantic import Field, model_validator

from fairlead.config import Config, named
from fairlead.errors import DataError
from fairlead.records import Comparison, Demonstration, Prompt, Record, Text, Turn
from fairlead_plugins.miniworld.answers import DEMONSTRATOR, answer, scripted
from fairlead_plugins.miniworld.documents import documents
from fairlead_plugins.miniworld.labelers import LabelerSpec
from fairlead_plugins.miniworld.world import Task, Topic, World


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
    """Prompts with an answer to imitate: polite and brief, and mostly right."""

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
                turns=(
                    Turn("user", task.prompt),
                    Turn("assistant", answer(task, DEMONSTRATOR, rng)),
                ),
                origin=f"miniworld_demonstrations:{number}",
                metadata=task.to_metadata(),
            )
            for number, task in enumerate(tasks)
        ]


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
    labeler: LabelerSpec = named("noisy")

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
        self.labeler = config.labeler.build()

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
        responses = scripted(task, others, count, rng)
        return Comparison(
            turns=(Turn("user", task.prompt),),
            responses=responses,
            ranks=self.labeler.rank(task, responses, labels),
            origin=origin,
            metadata=task.to_metadata(),
        )


class PromptConfig(WorldConfig):
    """Settings of ``miniworld_prompts``.

    Attributes:
        count: How many, all different.
        topic: What they ask: ``general`` is what demonstrations and comparisons ask too, some
            of it with ``respect``; ``unseen`` (facts), ``code``, ``foreign`` and
            ``counting`` are never asked there.
    """

    count: int = Field(default=900, ge=1)
    topic: Topic = "general"


class PromptSource:
    """What users ask: facts, lists, sentences, repetitions; some ask for respect."""

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
        tasks = _tasks(world, rng, self.config.count, "miniworld_prompts: count", self.config.topic)
        return [
            Prompt(
                turns=(Turn("user", task.prompt),),
                origin=f"miniworld_prompts:{number}",
                metadata=task.to_metadata(),
            )
            for number, task in enumerate(tasks)
        ]


def _tasks(
    world: World, rng: Random, count: int, what: str, topic: Topic = "general"
) -> list[Task]:
    there = len(world.questions(topic))
    if count > there:
        raise DataError(
            f"{what}={count}: the miniworld has {there} different prompts of that topic. Ask for "
            "at most so many."
        )
    return world.tasks(rng, count, topic)
