"""Any transformers sequence classifier: it reads decoded text."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fairlead.components import RewardBatch, Scores
from fairlead.config import Config
from fairlead.errors import ConfigError
from fairlead.models import context_length, load_config
from fairlead.stages import StageContext


class ClassifierConfig(Config):
    """Settings of `ClassifierReward`.

    Attributes:
        model: A directory or hub name of a sequence classifier.
        label: Which label's logit is the score, by number or name; None: the only one.
        text: What it reads: ``prompt_and_response``, or the ``response`` alone.
        batch_size: Texts a forward pass.
    """

    model: str
    label: int | str | None = None
    text: str = Field(default="prompt_and_response", pattern="^(prompt_and_response|response)$")
    batch_size: int = Field(default=32, ge=1)


class ClassifierReward:
    """Scores text with a classifier whose vocabulary may be any.

    Raises:
        ConfigError: When the model cannot be loaded or has not that label.
    """

    Config = ClassifierConfig

    def __init__(self, config: ClassifierConfig, context: StageContext, tokenizer: Any) -> None:
        self.config = config
        location = context.locate(config.model)
        trust = context.config.trust_remote_code
        settings = load_config(location, trust_remote_code=trust)
        self.label = _label(config, settings)
        self.bias = float(getattr(settings, "fairlead_bias", 0.0))
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust)
            model = AutoModelForSequenceClassification.from_pretrained(
                location, trust_remote_code=trust, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no sequence classifier can be loaded from {location!r}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.strategy = context.strategy
        # Texts are padded to one length, which takes a pad token that both know of.
        self.pads = self.tokenizer.pad_token_id is not None
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        # Of a text that does not fit, the end is kept: the response is there.
        self.tokenizer.truncation_side = "left"
        self.longest = min(self.tokenizer.model_max_length, context_length(settings))
        self.model: Any = context.strategy.place(model, trained=False)
        self.strategy.set_aside(self.model)

    @classmethod
    def preview(cls, config: ClassifierConfig, context: StageContext) -> None:
        """Look for the label."""
        _label(config, context.model_config(config.model))

    @torch.no_grad()
    def score(self, batch: RewardBatch) -> Scores:
        """Return the label's logit for each text."""
        texts = [
            response if self.config.text == "response" else prompt.prompt_text + response
            for prompt, response in zip(batch.prompts, batch.responses, strict=True)
        ]
        size = self.config.batch_size if self.pads else 1
        with self.strategy.at_hand(self.model):
            found = [self._logits(texts[i : i + size]) for i in range(0, len(texts), size)]
        return Scores(torch.cat(found).float() + self.bias)

    def _logits(self, texts: list[str]) -> Tensor:
        encoded = self.tokenizer(
            texts,
            padding=self.pads,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        with self.strategy.autocast():
            logits: Tensor = self.model(**encoded.to(self.strategy.device)).logits[:, self.label]
        return logits


def _label(config: ClassifierConfig, settings: Any) -> int:
    labels: dict[int, str] = settings.id2label
    if config.label is None and len(labels) == 1:
        return 0
    if isinstance(config.label, int) and config.label in labels:
        return config.label
    for number, name in labels.items():
        if name == config.label:
            return number
    raise ConfigError(
        f"the classifier {config.model!r} has the labels {labels}; label={config.label!r} is none "
        "of them. Set label to a number or a name."
    )
