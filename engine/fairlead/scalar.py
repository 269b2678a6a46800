"""Scalar models: the reward model and the value model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from fairlead.errors import ConfigError
from fairlead.linear import use_faster_products
from fairlead.models import hidden_at, load_config, use_fused_gelu
from fairlead.ragged import use_ragged
from fairlead.strategy import Strategy

BIAS = "fairlead_bias"
"""Key of the reward bias in ``config.json``; transformers' scalar head has no bias."""


class ScalarModel(nn.Module):
    """A transformer whose unembedding is replaced by a scalar head.

    Wraps ``AutoModelForSequenceClassification`` with one label, so that what is saved is
    what transformers loads; the bias is kept beside it. A value model trains it, as
    lm-human-preferences does. A reward model does not: pairs leave it without a gradient
    but for rounding, which Adam would make steps of.
    """

    def __init__(self, model: Any, bias: float) -> None:
        super().__init__()
        self.model = model
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))

    @property
    def head(self) -> nn.Linear:
        """The scalar head, ``[1, H]``, held in float32."""
        head: nn.Linear = self.model.score
        return head

    def forward(self, tokens: Tensor, where: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the scalar at each marked position.

        Args:
            tokens: ``[B, S]`` int64, padded on the right.
            where: ``[B, S]`` bool, N True.
            lengths: ``[B]`` int64; given, nothing is computed for the padding.

        Returns:
            ``[N]`` float32, in row order.
        """
        hidden = hidden_at(self.model, tokens, where, lengths)
        # The head runs in float32 whatever the body's dtype (fidelity item 6).
        with torch.autocast(tokens.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.head.weight).squeeze(-1) + self.bias

    def at_last_token(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the scalar at the last token of each row, ``[B]`` (fidelity item 5)."""
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[torch.arange(len(tokens), device=tokens.device), lengths - 1] = True
        scores: Tensor = self(tokens, where, lengths)
        return scores

    def save(self, directory: Path) -> None:
        """Write a directory that AutoModelForSequenceClassification loads."""
        setattr(self.model.config, BIAS, float(self.bias.detach()))
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory)


def load_scalar(
    location: str, strategy: Strategy, *, trained: bool, trust_remote_code: bool = False
) -> ScalarModel:
    """Load a reward model written by Fairlead, or any one-label sequence classifier.

    Raises:
        ConfigError: When it is not a model with one label.
    """
    config = load_config(location, trust_remote_code=trust_remote_code)
    check_is_scalar(location, config)
    return _make(location, config, strategy, trained, trust_remote_code)


def check_is_scalar(location: str, config: Any) -> None:
    """Check that a transformers configuration is a reward model's.

    Raises:
        ConfigError: When it is not that of a sequence classifier with one label.
    """
    labels = getattr(config, "num_labels", None)
    kinds = config.architectures or []
    if labels != 1 or not any("SequenceClassification" in kind for kind in kinds):
        raise ConfigError(
            f"{location!r} is not a reward model: its config names {kinds} with {labels} labels. "
            "Give a stage:NAME of an rm stage, or a sequence classifier with num_labels=1."
        )


def scalar_from_causal(
    location: str,
    vocab_size: int,
    pad_id: int,
    strategy: Strategy,
    seed: int,
    *,
    trust_remote_code: bool = False,
) -> ScalarModel:
    """Replace a language model's unembedding by a fresh scalar head.

    The head is drawn from N(0, 1/(d + 1)) and the bias is 0 (lm-human-preferences; fidelity
    item 6). The embeddings grow to ``vocab_size`` when a pad token was added.
    """
    config = load_config(location, trust_remote_code=trust_remote_code)
    config.num_labels = 1
    # A classifier of its own dropout rates: a reward model's scores are to be repeatable.
    for name in [key for key in config.to_dict() if "drop" in key]:
        if isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    scalar = _make(location, config, strategy, True, trust_remote_code)
    known = scalar.model.get_input_embeddings().weight.shape[0]
    if known < vocab_size:
        scalar.model.resize_token_embeddings(vocab_size, mean_resizing=False)
        # Never read, never trained; zero, so that the same run gives the same file.
        scalar.model.get_input_embeddings().weight.data[known:] = 0
    scalar.model.config.pad_token_id = pad_id
    width = scalar.head.weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fresh = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
        scalar.head.weight.copy_(fresh)
        scalar.bias.zero_().requires_grad_(False)
    return scalar


def _make(
    location: str, config: Any, strategy: Strategy, trained: bool, trust_remote_code: bool
) -> ScalarModel:
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            location, config=config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"no scalar model can be made from {location!r}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(getattr(model, "score", None), nn.Linear) or model.score.bias is not None:
        raise ConfigError(
            f"{location!r} ({type(model).__name__}) has no plain scalar head over a causal body. "
            "As a reward it can score text: {name: classifier, model: ...}. A value model starts "
            "from a reward model of a causal family, such as stage:rm."
        )
    use_fused_gelu(model)
    scalar = ScalarModel(model, float(getattr(config, BIAS, 0.0)))
    head, bias = scalar.head.weight.detach().clone(), scalar.bias.detach().clone()
    placed = strategy.place(scalar, trained=trained)
    # A frozen body may be held in half precision; the head and the bias never pass through it.
    placed.head.weight.data = head.to(strategy.device)
    placed.bias.data = bias.to(strategy.device)
    use_faster_products(placed.model)
    use_ragged(placed.model)
    return placed.eval()
