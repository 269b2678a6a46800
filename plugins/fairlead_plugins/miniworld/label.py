"""The labelling stage: models answer, people rank the answers, and both are written to files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field, model_validator

from fairlead.checkpoint import write_atomically
from fairlead.config import Config, DataSourceSpec, RolloutBackendSpec, named
from fairlead.errors import DataError
from fairlead.models import load_causal
from fairlead.records import Prompt
from fairlead.respond import fitting_prompts, respond
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import check_same_vocabulary, stop_token_ids
from fairlead_plugins.miniworld.answers import scripted
from fairlead_plugins.miniworld.labelers import LabelerSpec
from fairlead_plugins.miniworld.world import Task

COMPARISONS = "comparisons.jsonl"
"""Every prompt, ranked by one person: what a reward model trains on, and is tested on."""

STAFF = "staff.jsonl"
HELDOUT_STAFF = "heldout_staff.jsonl"
"""The held-out prompts, each ranked by everybody of a group."""

Encoded = tuple[Prompt, list[int]]


class Writer(Config):
    """A model that answers.

    Attributes:
        model: ``stage:NAME``, a directory or a hub name.
        share: Of all answers, in proportion to the other models' shares.
    """

    model: str
    share: float = Field(default=1.0, gt=0)


class Group(Config):
    """People who rank.

    Attributes:
        labeler: What they are like.
        people: How many; each makes mistakes of their own.
    """

    labeler: LabelerSpec = named("noisy")
    people: int = Field(default=3, ge=1)


class LabelConfig(Config):
    """Settings of ``miniworld_label``.

    Attributes:
        models: Who answers, by name; the first one's tokenizer encodes the prompts for all.
        prompts: What is asked.
        rounds: How often each prompt is asked, every time for other answers.
        fewest: Fewest answers to a prompt (paper: 4). Equal answers count once and empty ones
            not at all, so that there may be fewer; a prompt with a single one left is dropped.
        most: Most answers to a prompt (paper: 9).
        staff: Who ranks the answers for the reward model.
        heldout_staff: People of another taste, whose ranks no model is trained on.
        max_new_tokens: Longest answer.
        temperature: 1 draws from the model.
        backend: Who generates.
        token_budget: Most tokens of a forward pass.
    """

    models: dict[str, Writer] = Field(min_length=1)
    prompts: DataSourceSpec
    rounds: int = Field(default=1, ge=1)
    fewest: int = Field(default=4, ge=2)
    most: int = Field(default=9, ge=2)
    staff: Group = Field(default_factory=dict, validate_default=True)
    heldout_staff: Group = Field(default_factory=dict, validate_default=True)
    max_new_tokens: int = Field(default=24, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    backend: RolloutBackendSpec = named("native")
    token_budget: int = Field(default=16384, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> LabelConfig:
        if self.fewest > self.most:
            raise ValueError(
                f"fewest={self.fewest} is more than most={self.most}; lower fewest or raise most"
            )
        return self


class LabelStage:
    """Writes ``comparisons.jsonl``, and what every labeler says of the held-out prompts."""

    Config = LabelConfig

    def __init__(self, config: LabelConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Let the models answer and the people rank; returns how much there is.

        Raises:
            DataError: When a prompt is none of the miniworld's, no prompt has two answers, or a
                labeler returns something other than a rank for each.
        """
        # 1. How many answers each prompt gets, and by whom.
        prompts = self._prompts(context)
        for prompt, _ in prompts:
            Task.from_metadata(prompt.metadata)  # raises before any answer is generated
        rng = Random(context.seed("who answers"))
        names, shares = list(self.config.models), [w.share for w in self.config.models.values()]
        writers = [
            rng.choices(names, shares, k=rng.randint(self.config.fewest, self.config.most))
            for _ in prompts
        ]
        # 2. The answers.
        answers: list[dict[str, None]] = [{} for _ in prompts]
        with context.display.stage(context.name, "model", len(names)) as progress:
            for number, name in enumerate(names, 1):
                asked = [row for row, chosen in enumerate(writers) for one in chosen if one == name]
                said = self._answers(name, [prompts[row] for row in asked], context)
                for row, text in zip(asked, said, strict=True):
                    if text.strip():
                        answers[row][text] = None
                progress.advance(number, {})
        # 3. The ranks.
        given = [
            (prompt, list(texts))
            for (prompt, _), texts in zip(prompts, answers, strict=True)
            if len(texts) > 1
        ]
        if not given:
            raise DataError(
                f"no prompt of {len(prompts)} was given two different answers, so there is nothing "
                "to rank. Use models that are better trained, or raise fewest and most."
            )
        counts = self._label(given, context)
        return {"steps": len(names), **counts, "dropped_prompts": len(prompts) - len(given)}

    def preview(self, context: StageContext) -> Preview:
        """Rank scripted answers, in place of the models', so that later stages can be previewed."""
        prompts = self._prompts(context)
        for writer in self.config.models.values():
            context.locate(writer.model)
        rng = Random(context.seed("who answers"))
        tasks = [Task.from_metadata(prompt.metadata) for prompt, _ in prompts]
        given = [
            (
                prompt,
                list(scripted(task, tasks, rng.randint(self.config.fewest, self.config.most), rng)),
            )
            for (prompt, _), task in zip(prompts, tasks, strict=True)
        ]
        counts = self._label(given, context)
        return Preview(
            facts={"models": ", ".join(self.config.models), **counts},
            sample=[(given[0][0].prompt_text, False), (f"  {' |'.join(given[0][1])}", False)],
        )

    def _prompts(self, context: StageContext) -> list[Encoded]:
        cfg = self.config
        first = next(iter(cfg.models.values())).model
        records = context.records(cfg.prompts, Prompt, "all")
        once = fitting_prompts(
            records,
            context.tokenizer(first),
            context.model_config(first),
            cfg.max_new_tokens,
            len(records),
        )
        return once * cfg.rounds

    def _answers(self, name: str, prompts: list[Encoded], context: StageContext) -> list[str]:
        if not prompts:
            return []
        cfg = self.config
        tokenizer = context.tokenizer(next(iter(cfg.models.values())).model)
        reference = cfg.models[name].model
        check_same_vocabulary(tokenizer, context.tokenizer(reference), f"model {name!r}")
        model = load_causal(
            context.locate(reference),
            context.strategy,
            trained=False,
            trust_remote_code=context.config.trust_remote_code,
        )
        return respond(
            model,
            prompts,
            cfg.backend.build(),
            None,
            tokenizer,
            context.strategy,
            max_new_tokens=cfg.max_new_tokens,
            stop_token_ids=stop_token_ids(tokenizer, None),
            temperature=cfg.temperature,
            seed=context.seed(f"answers of {name}"),
            token_budget=cfg.token_budget,
        ).texts

    def _label(
        self, given: list[tuple[Prompt, list[str]]], context: StageContext
    ) -> dict[str, int]:
        cfg = self.config
        comparisons: list[dict[str, Any]] = []
        everybody: dict[str, list[dict[str, Any]]] = {STAFF: [], HELDOUT_STAFF: []}
        for number, (prompt, answers) in enumerate(given):
            ranked = self._ranked(cfg.staff, "staff", number, prompt, answers, context)
            comparisons.append(ranked[number % len(ranked)])
            if context.is_heldout(prompt):
                everybody[STAFF] += ranked
                everybody[HELDOUT_STAFF] += self._ranked(
                    cfg.heldout_staff, "heldout staff", number, prompt, answers, context
                )
        _write(context.directory / COMPARISONS, comparisons)
        for name, entries in everybody.items():
            _write(context.directory / name, entries)
        return {"comparisons": len(comparisons), "answers": sum(len(texts) for _, texts in given)}

    def _ranked(
        self,
        group: Group,
        name: str,
        number: int,
        prompt: Prompt,
        answers: Sequence[str],
        context: StageContext,
    ) -> list[dict[str, Any]]:
        task, labeler = Task.from_metadata(prompt.metadata), group.labeler.build()
        entries = []
        for person in range(group.people):
            # Each person's mistakes are their own, whatever else is asked of whom.
            rng = Random(context.seed(f"{name} {person} at {number}"))
            try:
                ranks = [float(rank) for rank in labeler.rank(task, answers, rng)]
            except Exception as error:  # whatever a plugin does
                raise DataError(
                    f"the labeler {group.labeler.name!r} failed with {type(error).__name__}: "
                    f"{error}, for {len(answers)} answers to {prompt.prompt_text!r}. Its method "
                    "rank(task, responses, rng) must return one finite rank for each."
                ) from error
            _check(ranks, group.labeler.name, prompt, answers)
            entries.append(
                {
                    "prompt": prompt.prompt_text,
                    "responses": [f" {text.strip()}" for text in answers],
                    "ranks": ranks,
                    "labeler": f"{name} {person + 1}",
                }
            )
        return entries


def _check(ranks: Sequence[float], name: str, prompt: Prompt, answers: Sequence[str]) -> None:
    if len(ranks) != len(answers) or not all(map(math.isfinite, ranks)):
        raise DataError(
            f"the labeler {name!r} returned {ranks} for {len(answers)} answers to "
            f"{prompt.prompt_text!r}; it must return one finite rank for each."
        )


def _write(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
