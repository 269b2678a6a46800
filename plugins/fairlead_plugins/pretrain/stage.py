"""The pretraining stage: causal language modelling on packed text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fairlead import lm
from fairlead.checkpoint import ModelState, NumberState, OptimizerState, Stateful
from fairlead.data import DataFeed, cut_blocks
from fairlead.encode import Encoder
from fairlead.errors import ConfigError
from fairlead.measure import Measure
from fairlead.memory import memory_estimate
from fairlead.models import context_length, load_causal, parameter_count, save_model
from fairlead.optim import Updater
from fairlead.records import Text
from fairlead.scratch import Scratch, make_causal, scratch_config
from fairlead.session import Session
from fairlead.stages import Preview, StageContext
from fairlead.tokenizers import TokenizerSettings, load_tokenizer, train_tokenizer
from fairlead_plugins.pretrain.config import PretrainConfig


class PretrainStage:
    """Trains a causal language model on text, from nothing or from another model."""

    Config = PretrainConfig

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train; returns the held-out loss before and after."""
        cfg = self.config
        # 1. Text, tokenizer, model.
        documents = context.records(cfg.source, Text)
        tokenizer = self._tokenizer(context, documents)
        blocks, segments = self._blocks(tokenizer, documents)
        heldout = self._heldout(tokenizer, context)
        model = self._model(context, tokenizer)
        updater = Updater(model, cfg.optimizer, cfg.lr, cfg.clip)
        feed = DataFeed(len(blocks), context.seed("order"))
        measure = Measure(cfg.evaluators, cfg.evaluate_every, cfg.steps, context, tokenizer)
        measure.add(lambda: {"loss/heldout": lm.mean_loss(model, heldout, context.strategy)})
        parts: dict[str, Stateful] = {
            "model": ModelState(model),
            "optimizer": OptimizerState(updater.optimizer),
            "feed": NumberState(feed),
            "measure": NumberState(measure),
        }
        with Session(
            context, parts, total=cfg.steps, checkpoint_every=cfg.checkpoint_every
        ) as session:
            measure.before(model, session)
            model.train()
            for step in session.steps():
                # 2. Take the next blocks.
                rows = feed.take(cfg.batch_size)
                batches = lm.block_batches(
                    blocks[rows], segments[rows] if cfg.document_mask else None, cfg.token_budget
                )
                # 3. Backward, over microbatches, divided by all target tokens of the step.
                weight = context.strategy.sum(sum(batch.weight for batch in batches))
                total = lm.backward(
                    model, batches, weight, context.strategy, what="the loss", step=step
                )
                # 4. One optimizer step.
                metrics = {"loss/train": total / weight, **updater.step(step, cfg.steps)}
                # 5. Measure, log, checkpoint.
                session.finish(step, {**metrics, **measure.after(model, step)})
        # 6. Leave a plain transformers directory.
        save_model(model, tokenizer, context.directory)
        return {"steps": cfg.steps, "train_tokens": blocks.numel(), **measure.summary()}

    def preview(self, context: StageContext) -> Preview:
        """Tokenise the text and estimate memory."""
        cfg = self.config
        documents = context.records(cfg.source, Text)
        tokenizer = self._tokenizer(context, documents)
        blocks, _ = self._blocks(tokenizer, documents)
        config = (
            scratch_config(cfg.model, tokenizer)
            if isinstance(cfg.model, Scratch)
            else context.model_config(cfg.model)
        )
        self._check_context(config)
        config.save_pretrained(context.directory)
        tokenizer.save_pretrained(context.directory)
        count = parameter_count(config, context.config.trust_remote_code)
        tokens = min(cfg.token_budget, cfg.batch_size * cfg.block_tokens)
        return Preview(
            facts={
                "documents": len(documents),
                "blocks": f"{len(blocks)} of {cfg.block_tokens} tokens",
                "vocabulary": len(tokenizer),
                "parameters": count,
                "steps": cfg.steps,
                "passes over the text": round(cfg.steps * cfg.batch_size / len(blocks), 2),
            },
            sample=[(tokenizer.decode(blocks[0].tolist()), True)],
            memory_gib=memory_estimate(
                [("model", count, "trained")],
                (tokens, len(tokenizer)),
                context.config.precision,
                context.strategy.device.type,
            ),
        )

    def _tokenizer(self, context: StageContext, documents: list[Text]) -> Any:
        cfg = self.config
        if isinstance(cfg.model, str):
            return context.tokenizer(cfg.model)
        if isinstance(cfg.tokenizer, TokenizerSettings):
            saved = Path(context.directory) / "tokenizer"
            if not (context.resume and saved.is_dir()):
                made = train_tokenizer(cfg.tokenizer, (d.prompt_text for d in documents))
                draft = saved.with_name(".tokenizer.draft")
                made.save_pretrained(draft)
                shutil.rmtree(saved, ignore_errors=True)
                draft.rename(saved)  # whole or not there: a resume relies on it
            return load_tokenizer(str(saved))
        return context.tokenizer(cfg.tokenizer)

    def _blocks(self, tokenizer: Any, documents: list[Text]) -> Any:
        encoder = Encoder(tokenizer)
        encoded = [encoder.text(document) for document in documents]
        return cut_blocks(encoded, encoder.eos, self.config.block_tokens)

    def _heldout(self, tokenizer: Any, context: StageContext) -> list[lm.LmBatch]:
        cfg = self.config
        documents = context.records(cfg.source, Text, "heldout")
        encoder = Encoder(tokenizer)
        encoded = [encoder.text(document) for document in documents]
        if sum(len(ids) + 1 for ids in encoded) < cfg.block_tokens or not cfg.heldout_blocks:
            return []
        blocks, segments = cut_blocks(encoded, encoder.eos, cfg.block_tokens)
        kept = slice(0, cfg.heldout_blocks)
        return lm.block_batches(
            blocks[kept], segments[kept] if cfg.document_mask else None, cfg.token_budget
        )

    def _model(self, context: StageContext, tokenizer: Any) -> Any:
        cfg = self.config
        if isinstance(cfg.model, Scratch):
            self._check_context(scratch_config(cfg.model, tokenizer))
            return make_causal(cfg.model, tokenizer, context.strategy, context.seed("weights"))
        trust = context.config.trust_remote_code
        location = context.locate(cfg.model)
        self._check_context(context.model_config(cfg.model))
        return load_causal(location, context.strategy, trained=True, trust_remote_code=trust)

    def _check_context(self, config: Any) -> None:
        if self.config.block_tokens > context_length(config):
            raise ConfigError(
                f"block_tokens={self.config.block_tokens}, and the model takes "
                f"{context_length(config)} positions. Lower block_tokens, or raise "
                "max_position_embeddings of a model made from nothing."
            )
