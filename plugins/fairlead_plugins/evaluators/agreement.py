"""How far labelers agree on which response is better, and a reward with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from fairlead.components import Measurement, RewardBatch
from fairlead.config import Config, DataSourceSpec, RewardSpec, model_references
from fairlead.data import pad
from fairlead.encode import Encoder
from fairlead.errors import ConfigError, DataError
from fairlead.models import context_length
from fairlead.records import Comparison, Prompt, stable_fraction
from fairlead.scoring import check_reward, score
from fairlead.stages import StageContext
from fairlead.statistics import fleiss_kappa, mean_interval


class AgreementConfig(Config):
    """Settings of `AgreementEvaluator`.

    Attributes:
        label: What the metrics are called.
        source: Comparisons, one record for each labeler's ranking of a prompt's responses.
        part: Which side of the run's split.
        reward: Scored on the same responses and measured against the labelers; None: nothing.
        tokenizer: The model reference whose tokenizer the reward is given ids of; None: that of
            the model the stage measures or trains, else that of the reward's own model.
    """

    label: str = Field(default="agreement", pattern=r"^\w+$")
    source: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    reward: RewardSpec | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class Group:
    """One prompt's responses as several labelers ranked them.

    Attributes:
        record: One of the records, for the prompt.
        responses: K different responses, in an order that says nothing of their rank.
        ranks: For each labeler K ranks, lower is better.
    """

    record: Comparison
    responses: tuple[str, ...]
    ranks: tuple[tuple[float, ...], ...]

    def verdicts(self) -> list[list[int]]:
        """Return for each pair of responses each labeler's verdict: 1 the first, -1, 0 a tie."""
        pairs = combinations(range(len(self.responses)), 2)
        return [[_sign(ranks[b] - ranks[a]) for ranks in self.ranks] for a, b in pairs]


class AgreementEvaluator:
    """Measures ``eval/agreement``: how often two labelers prefer the same of two responses.

    Records with the same prompt and the same responses, in any order, are one group, and each is
    another labeler's. The metrics:

    - ``eval/agreement`` with its 95 % interval, which resamples prompts: of all comparisons (two
      labelers, one pair of responses) in which neither labeler ties, the share in which they
      agree. ``_comparisons`` says how many these are, ``_ties`` how many were left out.
    - ``_kappa``: Fleiss' kappa; an item is a pair of responses that two labelers or more have
      ranked, the categories are the first, the second and a tie, which is a verdict like another.
    - ``_reward`` with its interval: of all labelers' verdicts that are no tie, the share the
      reward shares; its own ties count 1/2. ``_reward_comparisons`` says how many verdicts,
      ``_reward_too_long`` how many groups were left out as the reward's model cannot read them.

    What cannot be measured is left out.

    Raises:
        ConfigError: When the reward cannot be made.
        DataError: When there is nothing to compare.
    """

    Config = AgreementConfig
    needs_model = False

    def __init__(self, config: AgreementConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config
        self.context = context
        self.groups = _load(config, context)
        self.tokenizer = _tokenizer(config, context, tokenizer)
        self.reward = config.reward.build(context, self.tokenizer) if config.reward else None
        self._found: Measurement | None = None

    @classmethod
    def preview(cls, config: AgreementConfig, context: StageContext, tokenizer: Any, _: Any) -> str:
        """Check what can be checked without weights; returns what would be measured on."""
        groups = _load(config, context)
        _tokenizer(config, context, tokenizer)
        if config.reward:
            check_reward(config.reward, context)
        most = max(len(group.ranks) for group in groups)
        return f"{len(groups)} sets of responses, each ranked by up to {most}"

    def evaluate(self, model: nn.Module | None, step: int) -> dict[str, float]:
        """Return the metrics, which are the same at every step."""
        return dict(self.measure(model).metrics)

    def measure(self, model: nn.Module | None) -> Measurement:
        """Measure once; the model is not looked at.

        Returns:
            One outcome a comparison of two labelers, 1 where they agree; clusters are the prompts.
        """
        if self._found is None:
            self._found = self._measure()
        return self._found

    def _measure(self) -> Measurement:
        name, seed = f"eval/{self.config.label}", self.context.seed("bootstrap")
        outcomes: list[float] = []
        clusters: list[str] = []
        table: list[list[int]] = []
        ties = 0
        for group in self.groups:
            for verdicts in group.verdicts():
                found = [float(a == b) for a, b in combinations(verdicts, 2) if a and b]
                outcomes += found
                clusters += [group.record.prompt_text] * len(found)
                ties += len(verdicts) * (len(verdicts) - 1) // 2 - len(found)
                if len(verdicts) > 1:
                    table.append([verdicts.count(which) for which in (1, -1, 0)])
        metrics: dict[str, float] = {}
        if outcomes:
            metrics |= mean_interval(outcomes, clusters, seed=seed).metrics(name)
        metrics |= self._reward_metrics(name, seed)
        kappa = fleiss_kappa(table) if table else float("nan")
        if kappa == kappa:
            metrics[f"{name}_kappa"] = kappa
        counts = {f"{name}_comparisons": float(len(outcomes)), f"{name}_ties": float(ties)}
        return Measurement({**metrics, **counts}, outcomes, clusters)

    def _reward_metrics(self, name: str, seed: int) -> dict[str, float]:
        if self.reward is None:
            return {}
        scored = self._scores()
        outcomes: list[float] = []
        clusters: list[str] = []
        for group, scores in scored:
            pairs = combinations(range(len(scores)), 2)
            for (a, b), verdicts in zip(pairs, group.verdicts(), strict=True):
                said = _sign(scores[a] - scores[b])
                found = [0.5 if said == 0 else float(said == v) for v in verdicts if v]
                outcomes += found
                clusters += [group.record.prompt_text] * len(found)
        counts = {
            f"{name}_reward_comparisons": float(len(outcomes)),
            f"{name}_reward_too_long": float(len(self.groups) - len(scored)),
        }
        if not outcomes:
            return counts
        interval = mean_interval(outcomes, clusters, seed=seed)
        return {**interval.metrics(f"{name}_reward"), **counts}

    def _scores(self) -> list[tuple[Group, list[float]]]:
        """Return the groups that the reward's model can read, each with its responses' scores."""
        if self.reward is None or self.config.reward is None:
            return []
        encoder, device = Encoder(self.tokenizer), self.context.strategy.device
        references = model_references(self.config.reward.dump())
        configs = [self.context.model_config(reference) for reference in references]
        limit = min([context_length(config) for config in configs], default=None)
        kept: list[Group] = []
        sequences: list[tuple[int, ...]] = []
        prompts: list[tuple[Prompt, int]] = []
        for group in self.groups:
            found = encoder.ranking(_as_comparison(group)).sequences
            if limit is not None and max(map(len, found)) > limit:
                continue
            kept.append(group)
            sequences += found
            length = len(encoder.prompt(group.record))
            prompts += [(_as_prompt(group.record), length)] * len(found)
        if not kept:
            return []
        lengths = torch.tensor([length for _, length in prompts])
        whole = torch.tensor([len(ids) for ids in sequences])
        batch = RewardBatch(
            tokens=pad(sequences).to(device),
            prompt_lengths=lengths.to(device),
            response_lengths=(whole - lengths).to(device),
            prompts=[prompt for prompt, _ in prompts],
            responses=[text for group in kept for text in group.responses],
        )
        scores = iter(score(self.reward, batch).total.tolist())
        return [(group, [next(scores) for _ in group.responses]) for group in kept]


def grouped(records: Sequence[Comparison]) -> list[Group]:
    """Bring the rankings of the same responses to the same prompt together."""
    found: dict[Any, list[Comparison]] = {}
    for record in records:
        key = (record.chat, record.turns, frozenset(record.responses))
        found.setdefault(key, []).append(record)
    groups = []
    for same in found.values():
        # Data often names the preferred response first: another order, the same for all.
        first = same[0].prompt_text
        ordered = tuple(
            sorted(set(same[0].responses), key=lambda said: stable_fraction(f"{first}\0{said}", 0))
        )
        ranks = [dict(zip(record.responses, record.ranks, strict=True)) for record in same]
        groups.append(
            Group(same[0], ordered, tuple(tuple(own[said] for said in ordered) for own in ranks))
        )
    return groups


def _load(config: AgreementConfig, context: StageContext) -> list[Group]:
    groups = grouped(context.records(config.source, Comparison, config.part))
    if not groups:
        raise DataError(
            f"agreement {config.label!r}: there is no comparison in part={config.part} of the "
            f"data source {config.source.name!r}. Raise heldout, or set part: all."
        )
    if config.reward is None and all(len(group.ranks) < 2 for group in groups):
        raise DataError(
            f"agreement {config.label!r}: none of {len(groups)} sets of responses is ranked by two "
            "labelers, so nobody can agree. Give one record for each labeler, with the same prompt "
            "and the same responses, or a reward to measure against single labelers."
        )
    return groups


def _tokenizer(config: AgreementConfig, context: StageContext, tokenizer: Any) -> Any:
    """Return the tokenizer whose ids the reward is given; None without a reward."""
    if config.reward is None:
        return None
    if config.tokenizer is not None:
        return context.tokenizer(config.tokenizer)
    if tokenizer is not None:
        return tokenizer
    references = model_references(config.reward.dump())
    if not references:
        raise ConfigError(
            f"agreement {config.label!r}: the reward {config.reward.name!r} is given token ids "
            "beside the texts, and there is no model here whose tokenizer makes them. Set "
            "tokenizer: to a model (stage:NAME, a directory or a hub name)."
        )
    return context.tokenizer(references[0])


def _as_comparison(group: Group) -> Comparison:
    record = group.record
    return Comparison(
        turns=record.turns,
        chat=record.chat,
        origin=record.origin,
        responses=group.responses,
        ranks=group.ranks[0],
    )


def _as_prompt(record: Comparison) -> Prompt:
    return Prompt(
        turns=record.turns,
        chat=record.chat,
        user=record.user,
        origin=record.origin,
        metadata=record.metadata,
    )


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
