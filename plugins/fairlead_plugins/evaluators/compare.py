"""The compare stage: several models answer the same held-out prompts."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from fairlead.checkpoint import write_atomically
from fairlead.config import Config, DataSourceSpec, RewardSpec, RolloutBackendSpec, named
from fairlead.models import load_causal
from fairlead.records import Prompt
from fairlead.respond import Responses, fitting_prompts, respond
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import check_same_vocabulary, stop_token_ids


class CompareConfig(Config):
    """Settings of the compare stage.

    Attributes:
        models: Name to show, to ``stage:NAME``, directory or hub name; the first one's
            tokenizer encodes the prompts for all.
        prompts: Where prompts come from.
        part: Which side of the run's split.
        reward: What scores the responses; None: nothing does.
        count: Prompts to answer.
        max_new_tokens: Longest response.
        temperature: 1 draws from the model; 0 is greedy.
        stop_tokens: As in rollouts.
        backend: Who generates.
        token_budget: Most tokens of a forward pass.
    """

    models: dict[str, str] = Field(min_length=1)
    prompts: DataSourceSpec
    part: Literal["heldout", "train", "all"] = "heldout"
    reward: RewardSpec | None = None
    count: int = Field(default=12, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    stop_tokens: list[str] | None = None
    backend: RolloutBackendSpec = named("hf")
    token_budget: int = Field(default=16384, ge=1)


class CompareStage:
    """Writes ``samples.jsonl``: each prompt with every model's response and its score."""

    Config = CompareConfig

    def __init__(self, config: CompareConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Let each model answer; returns each one's mean score."""
        cfg, trust = self.config, context.config.trust_remote_code
        tokenizer = self._tokenizer(context)
        prompts = self._prompts(context, tokenizer)
        reward = cfg.reward.build(context, tokenizer) if cfg.reward else None
        answers: dict[str, Responses] = {}
        with context.display.stage(context.name, "model", len(cfg.models)) as progress:
            for number, (name, reference) in enumerate(cfg.models.items(), 1):
                location = context.locate(reference)
                check_same_vocabulary(tokenizer, context.tokenizer(reference), f"model {name!r}")
                answers[name] = respond(
                    load_causal(location, context.strategy, trained=False, trust_remote_code=trust),
                    prompts,
                    cfg.backend.build(),
                    reward,
                    tokenizer,
                    context.strategy,
                    max_new_tokens=cfg.max_new_tokens,
                    stop_token_ids=stop_token_ids(tokenizer, cfg.stop_tokens),
                    temperature=cfg.temperature,
                    seed=context.seed("samples"),
                    token_budget=cfg.token_budget,
                )
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
        prompts = self._prompts(context, tokenizer)
        return Preview(
            facts={"models": ", ".join(self.config.models), "prompts": len(prompts)},
            sample=[(prompts[0][0].prompt_text, False)],
        )

    def _tokenizer(self, context: StageContext) -> Any:
        return context.tokenizer(next(iter(self.config.models.values())))

    def _prompts(self, context: StageContext, tokenizer: Any) -> list[tuple[Prompt, list[int]]]:
        cfg = self.config
        config = context.model_config(next(iter(cfg.models.values())))
        records = context.records(cfg.prompts, Prompt, cfg.part)
        return fitting_prompts(records, tokenizer, config, cfg.max_new_tokens, cfg.count)


def _entry(found: Responses, row: int) -> dict[str, Any]:
    score = None if found.scores is None else float(found.scores[row])
    return {"text": found.texts[row], "score": score}
