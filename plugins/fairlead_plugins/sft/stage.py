"""The SFT stage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch

from fairlead import lm
from fairlead.checkpoint import ModelState, NumberState, OptimizerState, Stateful
from fairlead.data import DataFeed
from fairlead.encode import Encoded, Encoder
from fairlead.errors import ConfigError, DataError
from fairlead.measure import Measure
from fairlead.memory import memory_estimate
from fairlead.metrics import Sums
from fairlead.models import context_length, load_causal, parameter_count, save_model
from fairlead.optim import Updater
from fairlead.records import Demonstration
from fairlead.session import Session
from fairlead.stages import Preview, StageContext
from fairlead_plugins.sft.best import BestWeights
from fairlead_plugins.sft.config import SftConfig


class SftStage:
    """Fine-tunes a language model on demonstrations (paper, section 3.5 and appendix C.1)."""

    Config = SftConfig

    def __init__(self, config: SftConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train; returns the held-out loss before and after, and what was left out."""
        cfg = self.config
        # 1. Tokenizer, demonstrations, model.
        tokenizer = context.tokenizer(cfg.model)
        examples, dropped = self._examples(tokenizer, context, "train")
        unseen, _ = self._examples(tokenizer, context, "heldout")
        heldout = lm.batch_examples(unseen, cfg.token_budget)
        model = self._model(context)
        updater = Updater(model, cfg.optimizer, cfg.lr, cfg.clip)
        auxiliary = [spec.build(context, tokenizer) for spec in cfg.auxiliary]
        feed = DataFeed(len(examples), context.seed("order"))
        total = math.ceil(cfg.epochs * len(examples) / cfg.batch_size)
        epoch = Fraction(len(examples), cfg.batch_size)
        width = cfg.max_tokens if cfg.packing else None
        measure = Measure(cfg.evaluators, epoch, total, context, tokenizer)
        measure.add(lambda: {"loss/heldout": lm.mean_loss(model, heldout, context.strategy)})
        best = BestWeights(model, cfg.select_by)
        parts: dict[str, Stateful] = {
            "model": ModelState(model),
            "optimizer": OptimizerState(updater.optimizer),
            "feed": NumberState(feed),
            "measure": NumberState(measure),
            "best": best,
            **{f"auxiliary{i}": NumberState(loss) for i, loss in enumerate(auxiliary)},
        }
        with Session(context, parts, total=total, checkpoint_every=cfg.checkpoint_every) as session:
            measure.before(model, session)
            for step in session.steps():
                # 2. Take the next demonstrations; dropout noise is a function of the step.
                left = cfg.epochs * len(examples) - feed.cursor
                batch = [examples[i] for i in feed.take(min(cfg.batch_size, left))]
                batches = lm.batch_examples(batch, cfg.token_budget, width)
                model.train()
                torch.manual_seed(context.seed(f"dropout{step}"))
                # 3. Backward, divided by the target tokens of the whole step.
                weight = context.strategy.sum(sum(b.weight for b in batches))
                loss = lm.backward(
                    model, batches, weight, context.strategy, what="the loss", step=step
                )
                sums = Sums()
                sums.add("loss/train", loss, weight)
                # 4. Auxiliary losses, into the same gradients.
                for term in auxiliary:
                    sums.add_all(term.backward(model, len(batch), int(weight)))
                # 5. One optimizer step.
                metrics = {**sums.means(), **updater.step(step, total)}
                # 6. Measure, keep the best epoch, log, checkpoint.
                measured = measure.after(model, step)
                best.consider(measured, step)
                session.finish(step, {**metrics, **measured})
        # 7. Leave a plain transformers directory.
        best.restore_into_model()
        save_model(model, tokenizer, context.directory)
        return {
            "steps": total,
            "demonstrations": len(examples),
            "dropped_too_long": dropped,
            **best.summary(),
            **measure.summary(),
        }

    def preview(self, context: StageContext) -> Preview:
        """Tokenise the demonstrations, show one with its mask, estimate memory."""
        cfg = self.config
        tokenizer, config = context.tokenizer(cfg.model), context.model_config(cfg.model)
        examples, dropped = self._examples(tokenizer, context, "train")
        records = context.records(cfg.source, Demonstration)
        config.save_pretrained(context.directory)
        tokenizer.save_pretrained(context.directory)
        batch = examples[: cfg.batch_size]
        targets = sum(sum(example.targets) for example in batch)
        return Preview(
            facts={
                "demonstrations": len(examples),
                "left out, too long": dropped,
                "steps": math.ceil(cfg.epochs * len(examples) / cfg.batch_size),
                "tokens of a batch": sum(len(example) for example in batch),
                "trained on of these": targets,
            },
            sample=Encoder(tokenizer, cfg.train_on).pieces_for_display(records[0]),
            memory_gib=memory_estimate(
                [("model", parameter_count(config, context.config.trust_remote_code), "trained")],
                (min(targets, cfg.token_budget), len(tokenizer)),
                context.config.precision,
                context.strategy.device.type,
            ),
        )

    def _model(self, context: StageContext) -> Any:
        return load_causal(
            context.locate(self.config.model),
            context.strategy,
            trained=True,
            residual_dropout=self.config.residual_dropout,
            trust_remote_code=context.config.trust_remote_code,
        )

    def _examples(
        self, tokenizer: Any, context: StageContext, part: str
    ) -> tuple[list[Encoded], int]:
        """Encode one side of the split; returns it with the count of those too long."""
        cfg = self.config
        encoder = Encoder(tokenizer, cfg.train_on)
        limit = min(cfg.max_tokens, context_length(context.model_config(cfg.model)))
        if cfg.packing and cfg.max_tokens > limit:
            raise ConfigError(
                f"max_tokens={cfg.max_tokens} is the width of packed rows, and the model takes "
                f"{limit} positions. Lower max_tokens."
            )
        encoded = [
            encoder.demonstration(r) for r in context.records(cfg.source, Demonstration, part)
        ]
        kept = [example for example in encoded if len(example) <= limit and any(example.targets)]
        if part == "train" and encoded and not kept:
            raise DataError(
                f"stage {context.name!r}: all {len(encoded)} demonstrations are longer "
                f"than {limit} tokens. Raise max_tokens, or use a model with a longer context."
            )
        return kept, len(encoded) - len(kept)
