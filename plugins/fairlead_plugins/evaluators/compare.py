"""The compare stage: several models answer the same held-out prompts."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from fairlead.checkpoint import write_atomically
from fairlead.config import RewardSpec
from fairlead.models import load_causal
from fairlead.respond import Responses
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import check_same_vocabulary
from fairlead_plugins.evaluators.answering import AnswerConfig, Answering, Asked


class CompareConfig(AnswerConfig):
    """Settings of the compare stage; those of the prompts are `AnswerConfig`'s.

    Attributes:
        models: Name to show, to ``stage:NAME``, directory or hub name; the first one's
            tokenizer encodes the prompts for all.
        reward: What scores the responses; None: nothing does.
        count: Prompts to answer.
    """

    models: dict[str, str] = Field(min_length=1)
    reward: RewardSpec | None = None
    count: int = Field(default=12, ge=1)


class CompareStage:
    """Writes ``samples.jsonl``: each prompt with every model's response and its score."""

    Config = CompareConfig

    def __init__(self, config: CompareConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Let each model answer; returns each one's mean score."""
        cfg, trust = self.config, context.config.trust_remote_code
        tokenizer = self._tokenizer(context)
        answering = Answering(cfg, context, tokenizer, "samples")
        prompts = self._prompts(context, answering)
        reward = cfg.reward.build(context, tokenizer) if cfg.reward else None
        answers: dict[str, Responses] = {}
        with context.display.stage(context.name, "model", len(cfg.models)) as progress:
            for number, (name, reference) in enumerate(cfg.models.items(), 1):
                location = context.locate(reference)
                check_same_vocabulary(tokenizer, context.tokenizer(reference), f"model {name!r}")
                model = load_causal(
                    location, context.strategy, trained=False, trust_remote_code=trust
                )
                answers[name] = answering.ask(model, prompts, reward)
                progress.advance(number, {})
        lines = [
            json.dumps(
                {
                    "prompt": record.prompt_text,
                    "responses": {n: _entry(found, row) for n, found in answers.items()},
                },
                ensure_ascii=False,
            )
            for row, (record, _) in enumerate(prompts)
        ]
        write_atomically(context.directory / "samples.jsonl", "\n".join(lines) + "\n")
        means = {
            f"mean_score/{name}": float(found.scores.mean())
            for name, found in answers.items()
            if found.scores is not None
        }
        return {"steps": len(answers), "prompts": len(prompts), **means}

    def preview(self, context: StageContext) -> Preview:
        """Encode the prompts."""
        tokenizer = self._tokenizer(context)
        for reference in self.config.models.values():
            context.locate(reference)
        prompts = self._prompts(context, Answering(self.config, context, tokenizer, "samples"))
        return Preview(
            facts={"models": ", ".join(self.config.models), "prompts": len(prompts)},
            sample=[(prompts[0][0].prompt_text, False)],
        )

    def _tokenizer(self, context: StageContext) -> Any:
        return context.tokenizer(next(iter(self.config.models.values())))

    def _prompts(self, context: StageContext, answering: Answering) -> list[Asked]:
        return answering.prompts(context.model_config(next(iter(self.config.models.values()))))


def _entry(found: Responses, row: int) -> dict[str, Any]:
    score = None if found.scores is None else float(found.scores[row])
    return {"text": found.texts[row], "score": score}
