"""Random models of a given size, for measuring: weights do not change what arithmetic costs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)


@dataclass(frozen=True)
class Size:
    """What is built.

    Attributes:
        family: transformers' name of the architecture.
        layers: Transformer blocks.
        hidden: Width.
        heads: Attention heads.
        vocabulary: Tokens, the end-of-sequence and the padding token among them.
        positions: Longest sequence.
        kv_heads: Key and value heads, which query heads share; None: as many as these.
        inner: Width of a block's own layers; None: four times the model's.
    """

    family: str = "gpt2"
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    vocabulary: int = 4096
    positions: int = 512
    kv_heads: int | None = None
    inner: int | None = None

    @property
    def eos(self) -> int:
        """The token that ends a response."""
        return self.vocabulary - 2

    @property
    def kv_width(self) -> int:
        """Numbers of a token's keys in one layer; of its values as many."""
        return self.hidden // self.heads * (self.kv_heads or self.heads)

    @property
    def weights(self) -> int:
        """All of a model of this size, by formula: none is made, which may be too large."""
        width, inner = self.hidden, self.inner or 4 * self.hidden
        keys_and_values = 2 * (width + 1) * self.kv_width
        if self.family == "qwen2":  # no bias after attention; three layers without any; one norm
            block = (2 * width + 1) * width + keys_and_values + 3 * width * inner + 2 * width
            return self.layers * block + (self.vocabulary + 1) * width
        block = 2 * (width + 1) * width + keys_and_values + 2 * width * inner + inner + 5 * width
        looked_up = self.vocabulary + self.positions + 2 * (self.family == "opt")
        return self.layers * block + (looked_up + 2) * width

    def config(self, **more: Any) -> Any:
        """Return transformers' configuration, without dropout."""
        inner = self.inner or 4 * self.hidden
        own: dict[str, dict[str, Any]] = {
            "gpt2": {"n_inner": inner},
            "opt": {"ffn_dim": inner, "word_embed_proj_dim": self.hidden},
            "qwen2": {
                "intermediate_size": inner,
                "num_key_value_heads": self.kv_heads or self.heads,
                "tie_word_embeddings": True,
            },
        }
        config = AutoConfig.for_model(
            self.family,
            **own.get(self.family, {}),
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.positions,
            bos_token_id=None,
            eos_token_id=self.eos,
            pad_token_id=self.vocabulary - 1,
            **more,
        )
        for name in [key for key in config.to_dict() if "drop" in key]:
            if isinstance(getattr(config, name), float):
                setattr(config, name, 0.0)
        return config


def tokenizer(size: Size) -> Any:
    """Return a tokenizer of one word a token: ``w0``, ``w1`` and so on."""
    words = [f"w{index}" for index in range(size.vocabulary - 2)]
    vocabulary = {word: index for index, word in enumerate([*words, "<eos>", "<pad>"])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")


def causal(size: Size, seed: int, mean_length: int | None) -> Any:
    """Return a random causal model.

    Args:
        size: How large.
        seed: Of the weights.
        mean_length: Responses end with this probability's inverse at every token, so that their
            lengths are geometric, which a GPT-2 alone can; None: hardly ever.
    """
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(size.config()).eval()
    _end_after(model, size, mean_length)
    return model


@torch.no_grad()
def _end_after(model: Any, size: Size, mean_length: int | None) -> None:
    """Give a GPT-2's end-of-sequence token a logit of its own, whatever came before.

    The last hidden states are kept off one coordinate but for a constant, and the head reads that
    coordinate for this token alone. Others have logits near 0, so its odds are exp(logit) / V.
    """
    if size.family != "gpt2":  # a random model ends a response once in a vocabulary's tokens
        return
    head = model.get_output_embeddings().weight
    norm = model.transformer.ln_f
    norm.weight[0], norm.bias[0] = 0.0, 1.0
    head[:, 0] = 0.0
    head[size.eos] = 0.0
    odds = 1e-9 if mean_length is None else 1 / (mean_length - 1)
    head[size.eos, 0] = math.log(odds * (size.vocabulary - 1))


def write_models(directory: Path, size: Size, mean_length: int | None) -> None:
    """Write ``policy``, ``value`` and ``reward`` below a directory."""
    words = tokenizer(size)
    causal(size, 0, mean_length).save_pretrained(directory / "policy")
    words.save_pretrained(directory / "policy")
    for number, name in enumerate(("value", "reward"), 1):
        torch.manual_seed(number)
        model = AutoModelForSequenceClassification.from_config(size.config(num_labels=1))
        model.save_pretrained(directory / name)
        words.save_pretrained(directory / name)


def write_prompts(path: Path, size: Size, count: int, tokens: int) -> None:
    """Write prompts of so many random tokens each, a JSON line a prompt."""
    draw = torch.Generator().manual_seed(0)
    with path.open("w", encoding="utf-8") as out:
        for ids in torch.randint(size.vocabulary - 2, (count, tokens), generator=draw).tolist():
            out.write(json.dumps({"prompt": " ".join(f"w{one}" for one in ids)}) + "\n")


def parameters(size: Size) -> int:
    """Return how many weights multiply each token: all but those that are only looked up."""
    with torch.device("meta"):  # nothing of a large model is made to count it
        model: Any = AutoModelForCausalLM.from_config(size.config())
    total: int = sum(parameter.numel() for parameter in model.parameters())
    positions = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and module is not model.get_input_embeddings()
    ]
    tied = model.get_output_embeddings()
    shared = tied is not None and tied.weight is model.get_input_embeddings().weight
    looked_up = sum(positions) + (0 if shared else model.get_input_embeddings().weight.numel())
    return int(total - looked_up)
