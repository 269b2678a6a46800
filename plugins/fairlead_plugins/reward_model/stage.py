"""The reward-model stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.checkpoint import ModelState, NumberState, OptimizerState, Stateful
from fairlead.components import LossTerm, PreferenceLoss
from fairlead.data import DataFeed, microbatches, pad
from fairlead.encode import EncodedRanking, Encoder
from fairlead.errors import DataError
from fairlead.measure import Measure
from fairlead.memory import memory_estimate
from fairlead.metrics import Sums
from fairlead.models import context_length, parameter_count
from fairlead.optim import Updater, check_finite
from fairlead.records import Comparison, Demonstration
from fairlead.scalar import ScalarModel, scalar_from_causal
from fairlead.session import Session
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import with_distinct_pad
from fairlead_plugins.reward_model.calibration import held_out_report
from fairlead_plugins.reward_model.config import RewardModelConfig
from fairlead_plugins.reward_model.losses import pair_differences


class RewardModelStage:
    """Trains a reward model on ranked responses (paper, section 3.5 and appendix C.2)."""

    Config = RewardModelConfig

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train; returns held-out accuracy with its interval, calibration and the bias."""
        cfg = self.config
        # 1. Tokenizer, rankings, model.
        tokenizer = self._tokenizer(context)
        train, dropped = self._rankings(tokenizer, context, "train")
        heldout, _ = self._rankings(tokenizer, context, "heldout")
        demonstrations = self._demonstrations(tokenizer, context)
        model = scalar_from_causal(
            context.locate(cfg.model),
            len(tokenizer),
            tokenizer.pad_token_id,
            context.strategy,
            context.seed("head"),
            trust_remote_code=context.config.trust_remote_code,
        )
        loss = cfg.loss.build()
        updater = Updater(model, cfg.optimizer, cfg.lr, cfg.clip)
        feed = DataFeed(len(train), context.seed("order"))
        total = math.ceil(cfg.epochs * len(train) / cfg.batch_size)
        measure = Measure([], cfg.evaluate_every, total, context, tokenizer)
        measure.add(lambda: _held_out(model, loss, heldout, cfg.token_budget, context))
        parts: dict[str, Stateful] = {
            "model": ModelState(model),
            "optimizer": OptimizerState(updater.optimizer),
            "feed": NumberState(feed),
            "measure": NumberState(measure),
        }
        with Session(context, parts, total=total, checkpoint_every=cfg.checkpoint_every) as session:
            measure.before(model, session)
            for step in session.steps():
                # 2. Take the next prompts, each with all its responses.
                left = cfg.epochs * len(train) - feed.cursor
                batch = [train[i] for i in feed.take(min(cfg.batch_size, left))]
                prompts = context.strategy.sum(sum(1 for r in batch if len(set(r.ranks)) > 1))
                sums = Sums()
                # 3. Backward: each response forwarded once, every prompt weighing 1.
                for group in _groups(batch, cfg.token_budget):
                    scores = score_rankings(model, group, context)
                    term = loss(scores, [ranking.ranks for ranking in group])
                    check_finite(float(term.total.detach()), "the ranking loss", step)
                    (term.total / prompts).backward()
                    _note(sums, term, scores)
                # 4. One optimizer step.
                metrics = {**sums.means(), **updater.step(step, total)}
                # 5. Measure, log, checkpoint.
                session.finish(step, {**metrics, **measure.after(model, step)})
        # 6. Demonstrations score 0 on average, by a bias that is saved with the model.
        model.bias.sub_(_mean_score(model, demonstrations, cfg.token_budget, context))
        # 7. Leave a directory that transformers loads as a sequence classifier.
        model.save(context.directory)
        tokenizer.save_pretrained(context.directory)
        margins = _margins(model, heldout, cfg.token_budget, context)
        return {
            "steps": total,
            "prompts": len({ranking.prompt for ranking in train}),
            "rankings": len(train),
            "dropped_too_long": dropped,
            "bias": float(model.bias.detach()),
            **held_out_report(margins, context.seed("bootstrap")),
        }

    def preview(self, context: StageContext) -> Preview:
        """Tokenise the rankings and estimate memory."""
        cfg = self.config
        tokenizer = self._tokenizer(context)
        rankings, dropped = self._rankings(tokenizer, context, "train")
        self._demonstrations(tokenizer, context)
        config = context.model_config(cfg.model)
        count = parameter_count(config, context.config.trust_remote_code)
        # What the stage will leave, to those who look at it in a dry run.
        config.num_labels, config.architectures = 1, ["ForSequenceClassification"]
        config.save_pretrained(context.directory)
        tokenizer.save_pretrained(context.directory)
        first = rankings[0].sequences[0]
        return Preview(
            facts={
                "prompts": len({ranking.prompt for ranking in rankings}),
                "rankings": len(rankings),
                "left out, too long or without a pair": dropped,
                "responses to a prompt": f"{min(len(r.ranks) for r in rankings)} to "
                f"{max(len(r.ranks) for r in rankings)}",
                "steps": math.ceil(cfg.epochs * len(rankings) / cfg.batch_size),
            },
            sample=[
                (tokenizer.decode(list(first[:-1])), False),
                (tokenizer.decode([first[-1]]), True),
            ],
            memory_gib=memory_estimate(
                [("model", count, "trained")],
                (0, 0),
                context.config.precision,
                context.strategy.device.type,
            ),
        )

    def _tokenizer(self, context: StageContext) -> Any:
        tokenizer = context.tokenizer(self.config.model)
        with_distinct_pad(tokenizer)
        return tokenizer

    def _rankings(
        self, tokenizer: Any, context: StageContext, part: str
    ) -> tuple[list[EncodedRanking], int]:
        """Encode one side of the split; prompts without a pair, or too long, are left out."""
        cfg = self.config
        limit = min(cfg.max_tokens, context_length(context.model_config(cfg.model)))
        encoder = Encoder(tokenizer)
        found = [encoder.ranking(r) for r in context.records(cfg.source, Comparison, part)]
        kept = [
            ranking
            for ranking in found
            if len(set(ranking.ranks)) > 1 and max(map(len, ranking.sequences)) <= limit
        ]
        if part == "train" and found and not kept:
            raise DataError(
                f"stage {context.name!r}: none of {len(found)} prompts has two responses "
                f"of different rank within {limit} tokens. Raise max_tokens, or look at the ranks."
            )
        return kept, len(found) - len(kept)

    def _demonstrations(self, tokenizer: Any, context: StageContext) -> list[EncodedRanking]:
        """Encode what the bias brings to a mean score of 0 (fidelity item 7)."""
        cfg = self.config
        encoder = Encoder(tokenizer)
        limit = min(cfg.max_tokens, context_length(context.model_config(cfg.model)))
        records = context.records(cfg.demonstrations or cfg.source, Demonstration)
        sequences = [encoder.demonstration(record).ids for record in records]
        whole = [EncodedRanking((ids,), (0.0,)) for ids in sequences if len(ids) <= limit]
        if not whole:
            raise DataError(
                f"stage {context.name!r}: no demonstration fits in {limit} tokens, so the bias "
                "cannot be set. Give shorter ones (demonstrations:), or raise max_tokens."
            )
        return whole


def score_rankings(
    model: ScalarModel, rankings: Sequence[EncodedRanking], context: StageContext
) -> list[Tensor]:
    """Score every response of some prompts in one forward pass, ``[K]`` for each prompt."""
    sequences = [ids for ranking in rankings for ids in ranking.sequences]
    lengths = torch.tensor([len(ids) for ids in sequences], device=context.strategy.device)
    with context.strategy.autocast():
        scores = model.at_last_token(pad(sequences).to(context.strategy.device), lengths)
    return list(scores.split([len(ranking.sequences) for ranking in rankings]))


def _groups(rankings: Sequence[EncodedRanking], token_budget: int) -> list[list[EncodedRanking]]:
    """Cut prompts into microbatches; a prompt's responses stay together."""
    widths = [max(map(len, ranking.sequences)) for ranking in rankings]
    rows = [len(ranking.sequences) for ranking in rankings]
    return [[rankings[i] for i in group] for group in microbatches(widths, token_budget, rows)]


@torch.no_grad()
def _mean_score(
    model: ScalarModel,
    rankings: Sequence[EncodedRanking],
    token_budget: int,
    context: StageContext,
) -> Tensor:
    scores = [
        row
        for group in _groups(rankings, token_budget)
        for row in score_rankings(model, group, context)
    ]
    return torch.cat(scores).double().mean().float()


def _note(sums: Sums, term: LossTerm, scores: Sequence[Tensor]) -> None:
    sums.add("loss/train", float(term.total.detach()), term.weight)
    sums.add_all(term.metrics)
    every = torch.cat(list(scores)).detach()
    sums.add("mean_reward", float(every.sum()), len(every))


@torch.no_grad()
def _held_out(
    model: ScalarModel,
    loss: PreferenceLoss,
    rankings: Sequence[EncodedRanking],
    token_budget: int,
    context: StageContext,
) -> dict[str, float]:
    sums = Sums()
    for group in _groups(rankings, token_budget):
        scores = score_rankings(model, group, context)
        _note(sums, loss(scores, [ranking.ranks for ranking in group]), scores)
    means = sums.means()
    names = {"loss/train": "heldout/loss", "accuracy": "heldout/accuracy"}
    return {names[name]: value for name, value in means.items() if name in names}


@torch.no_grad()
def _margins(
    model: ScalarModel,
    rankings: Sequence[EncodedRanking],
    token_budget: int,
    context: StageContext,
) -> list[Tensor]:
    """Return ``r_w - r_l`` of every pair, for each prompt those of all its rankings."""
    found: dict[str, list[Tensor]] = {}
    for group in _groups(rankings, token_budget):
        for row, ranking in zip(score_rankings(model, group, context), group, strict=True):
            pairs = pair_differences(row, ranking.ranks).cpu()
            found.setdefault(ranking.prompt, []).append(pairs)
    return [torch.cat(pairs) for pairs in found.values()]
