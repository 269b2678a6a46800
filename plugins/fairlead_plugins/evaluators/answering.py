"""What evaluators that let models answer have in common: their settings, and the asking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import nn

from fairlead.components import Reward
from fairlead.config import Config, DataSourceSpec, RolloutBackendSpec, named
from fairlead.errors import DataError, listing
from fairlead.models import context_length
from fairlead.records import Prompt
from fairlead.respond import Responses, fitting_prompts, respond
from fairlead.stages import StageContext
from fairlead.tokenizers import stop_token_ids

Asked = tuple[Prompt, list[int]]
"""A prompt with its ids."""


class AnswerConfig(Config):
    """Which prompts are answered, and how.

    Attributes:
        prompts: Where prompts come from.
        part: Which side of the run's split.
        count: Prompts to use; the first that leave room for a response.
        max_new_tokens: Longest response.
        temperature: 1 draws from the model; 0 is greedy.
        stop_tokens: As in rollouts.
        backend: Who generates.
        token_budget: Most tokens of a forward pass.
    """

    prompts: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    count: int = Field(default=64, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    stop_tokens: list[str] | None = None
    backend: RolloutBackendSpec = named("native")
    token_budget: int = Field(default=16384, ge=1)


class SampledConfig(AnswerConfig):
    """The same where a prompt may be answered several times, and outcomes go by cluster.

    Attributes:
        samples: Responses to each prompt, each with random numbers of its own.
        cluster: Path of the metadata that names a prompt's cluster, such as ``world.fact``;
            None: the prompt. Intervals resample whole clusters.
    """

    samples: int = Field(default=1, ge=1)
    cluster: str | None = Field(default=None, min_length=1)


class Answering:
    """Asks models for responses to the same prompts, with the same draws.

    Args:
        config: Which prompts, and how.
        context: The stage's context.
        tokenizer: Encodes the prompts for all models.
        purpose: Names the draws, `StageContext.seed`.

    Raises:
        ConfigError: When a stop token is none of the vocabulary.
        DataError: When the prompts cannot be read.
    """

    def __init__(
        self, config: AnswerConfig, context: StageContext, tokenizer: Any, purpose: str
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.strategy = context.strategy
        self.seed = context.seed(purpose)
        self.records = context.records(config.prompts, Prompt, config.part)
        self.backend = config.backend.build()
        self.stop = stop_token_ids(tokenizer, config.stop_tokens)

    def prompts(self, *models: Any) -> list[Asked]:
        """Return the prompts that leave room for a response in every model.

        Args:
            models: Configurations of transformers models, at least one.

        Raises:
            DataError: When there is none.
        """
        cfg = self.config
        shortest = min(models, key=context_length)
        return fitting_prompts(
            self.records, self.tokenizer, shortest, cfg.max_new_tokens, cfg.count
        )

    def sampled(self, *models: Any) -> list[Asked]:
        """Return the same with each prompt as often as it is to be answered."""
        times = self.config.samples if isinstance(self.config, SampledConfig) else 1
        return [asked for asked in self.prompts(*models) for _ in range(times)]

    def ask(
        self, model: nn.Module, prompts: Sequence[Asked], reward: Reward | None = None
    ) -> Responses:
        """Return one response to each prompt, its draws keyed by the prompt's place in the list."""
        cfg = self.config
        return respond(
            model,
            prompts,
            self.backend,
            reward,
            self.tokenizer,
            self.strategy,
            max_new_tokens=cfg.max_new_tokens,
            stop_token_ids=self.stop,
            temperature=cfg.temperature,
            seed=self.seed,
            token_budget=cfg.token_budget,
        )


def scores_of(responses: Responses) -> list[float]:
    """Return the scores of responses that were asked for with a reward."""
    if responses.scores is None:
        raise RuntimeError("respond() was given a reward and returned no scores")
    return [float(score) for score in responses.scores]


def cluster_names(prompts: Sequence[Asked], path: str | None) -> list[str]:
    """Return the cluster of each prompt.

    Args:
        prompts: The prompts.
        path: Names in nested metadata, joined by dots; None: the prompt's text.

    Raises:
        DataError: When a prompt's metadata holds nothing there.
    """
    if path is None:
        return [record.prompt_text for record, _ in prompts]
    return [_look_up(record, path) for record, _ in prompts]


def _look_up(record: Prompt, path: str) -> str:
    value: Any = record.metadata
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            there = listing(map(str, value)) if isinstance(value, Mapping) else "no mapping"
            raise DataError(
                f"{record.origin or 'a prompt'}: cluster={path!r} names metadata that is not there "
                f"(at {part!r} there is: {there}). Add it to every record, or leave cluster out to "
                "resample prompts."
            )
        value = value[part]
    return str(value)
