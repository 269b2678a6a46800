"""How often a model's responses are preferred to those of another model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator
from torch import nn

from fairlead.components import Measurement, Reward
from fairlead.config import RewardSpec
from fairlead.functions import call_function, load_function
from fairlead.models import load_causal
from fairlead.respond import Responses
from fairlead.scoring import check_reward
from fairlead.stages import StageContext
from fairlead.statistics import mean_interval
from fairlead.tokenizers import check_same_vocabulary
from fairlead_plugins.evaluators.answering import (
    Answering,
    Asked,
    SampledConfig,
    cluster_names,
    scores_of,
)


class WinRateConfig(SampledConfig):
    """Settings of `WinRateEvaluator`; those of the prompts are `SampledConfig`'s.

    Attributes:
        label: What the metrics are called.
        baseline: The model compared with: ``stage:NAME``, a directory or a hub name.
        reward: The judge: the higher score wins.
        function: The judge, instead: ``path/to/file.py:function`` or ``package.module:function``,
            called as ``function(prompts, firsts, seconds, metadata)``. For each pair it returns
            the preference for the first response, from 0 to 1.
        both_orders: Ask the function in both orders and take the mean of the two verdicts, so
            that a liking for the first (or the second) place cancels out.
    """

    label: str = Field(default="win_rate", pattern=r"^\w+$")
    baseline: str
    reward: RewardSpec | None = None
    function: str | None = None
    both_orders: bool = True

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.reward is None) == (self.function is None):
            given = "both" if self.reward is not None else "neither"
            raise ValueError(f"{given} of reward and function are given; give one, the judge")
        return self


class WinRateEvaluator:
    """Measures ``eval/win_rate``, its 95 % interval and how much longer the responses are.

    The baseline answers once, with draws of its own: with the model's, a response that is the
    baseline's and a little more would win every time, and a preference between two samples would
    be overstated. Equal texts count 1/2, and with a reward equal scores too.
    ``eval/win_rate_length_difference`` is the mean number of words (of text, between white space)
    of the model's responses less that of the baseline's.

    Raises:
        ConfigError: When the judge cannot be made, or the baseline has another vocabulary.
    """

    Config = WinRateConfig

    def __init__(self, config: WinRateConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config
        self.context = context
        self.baseline = _checked_baseline(config, context, tokenizer)
        self.answering = Answering(config, context, tokenizer, "evaluation")
        self.asking_baseline = Answering(config, context, tokenizer, "baseline")
        self.reward: Reward | None = (
            config.reward.build(context, tokenizer) if config.reward else None
        )
        self.function = load_function(config.function) if config.function else None
        self._known: tuple[list[Asked], Responses] | None = None

    @classmethod
    def preview(
        cls, config: WinRateConfig, context: StageContext, tokenizer: Any, model: Any
    ) -> str:
        """Check what can be checked without weights; returns what would be measured on."""
        baseline = _checked_baseline(config, context, tokenizer)
        if config.reward:
            check_reward(config.reward, context)
        if config.function:
            load_function(config.function)
        answering = Answering(config, context, tokenizer, "evaluation")
        prompts = answering.prompts(model, context.model_config(baseline))
        cluster_names(prompts, config.cluster)
        return f"{len(prompts)} prompts against {baseline}"

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the metrics."""
        return dict(self.measure(model).metrics)

    def measure(self, model: nn.Module) -> Measurement:
        """Compare every response with the baseline's to the same prompt.

        Returns:
            One outcome a response, from 0 (the baseline's is preferred) to 1; clusters are the
            prompts, or what ``cluster`` names.

        Raises:
            RewardError: When the judge returns something other than its numbers.
        """
        prompts = self.answering.sampled(
            model.config, self.context.model_config(self.config.baseline)
        )
        mine = self.answering.ask(model, prompts, self.reward)
        theirs = self._baseline_responses(prompts)
        outcomes = self._outcomes(prompts, mine, theirs)
        clusters = cluster_names(prompts, self.config.cluster)
        name = f"eval/{self.config.label}"
        interval = mean_interval(outcomes, clusters, seed=self.context.seed("bootstrap"))
        longer = _mean_words(mine.texts) - _mean_words(theirs.texts)
        metrics = {**interval.metrics(name), f"{name}_length_difference": longer}
        return Measurement(metrics, outcomes, clusters)

    def _baseline_responses(self, prompts: list[Asked]) -> Responses:
        """Return what the baseline says; it is loaded for that and let go again."""
        # Another model measured here may have a shorter context, and so other prompts.
        if self._known is None or self._known[0] != prompts:
            model = load_causal(
                self.context.locate(self.config.baseline),
                self.context.strategy,
                trained=False,
                trust_remote_code=self.context.config.trust_remote_code,
            )
            self._known = (prompts, self.asking_baseline.ask(model, prompts, self.reward))
        return self._known[1]

    def _outcomes(self, prompts: list[Asked], mine: Responses, theirs: Responses) -> list[float]:
        if self.function is None:
            rows = zip(mine.texts, theirs.texts, scores_of(mine), scores_of(theirs), strict=True)
            # The same text may be scored in a batch of another width, and differ by rounding.
            return [
                0.5 if said == other or score == least else float(score > least)
                for said, other, score, least in rows
            ]
        verdicts = self._verdicts(prompts, mine.texts, theirs.texts)
        if self.config.both_orders:
            back = self._verdicts(prompts, theirs.texts, mine.texts)
            verdicts = [(a + 1.0 - b) / 2.0 for a, b in zip(verdicts, back, strict=True)]
        texts = zip(mine.texts, theirs.texts, verdicts, strict=True)
        return [0.5 if said == other else verdict for said, other, verdict in texts]

    def _verdicts(
        self, prompts: list[Asked], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[float]:
        if self.function is None:
            raise RuntimeError("the judge is a reward, and was asked as a function")
        return call_function(
            self.function,
            f"the judge {self.config.function}",
            [record.prompt_text for record, _ in prompts],
            [list(firsts), list(seconds)],
            [dict(record.metadata) for record, _ in prompts],
            low=0.0,
            high=1.0,
        )


def _checked_baseline(config: WinRateConfig, context: StageContext, tokenizer: Any) -> str:
    theirs = context.tokenizer(config.baseline)
    check_same_vocabulary(tokenizer, theirs, f"the baseline {config.baseline!r}")
    return config.baseline


def _mean_words(texts: Sequence[str]) -> float:
    return statistics.fmean(len(text.split()) for text in texts)
