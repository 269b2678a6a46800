"""Models made from nothing, by a configuration that every architecture reads alike."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from fairlead.config import Config
from fairlead.errors import ConfigError, did_you_mean
from fairlead.models import first_line, ready, set_dropout
from fairlead.strategy import Strategy

# What a family calls the width of its feed-forward layers, where not intermediate_size.
INTERMEDIATE_SIZE = ("n_inner", "ffn_dim")


class Scratch(Config):
    """A model to be made from nothing.

    Attributes:
        model_type: A transformers model type, such as ``gpt2``, ``llama`` or ``qwen2``.
        config: Its configuration. Every type reads ``hidden_size``, ``num_hidden_layers``,
            ``num_attention_heads``, ``intermediate_size`` and ``max_position_embeddings``;
            heads are not shared (GQA) unless ``num_key_value_heads`` says so. The
            vocabulary size is the tokenizer's.
    """

    model_type: str
    config: dict[str, Any] = Field(default_factory=dict)


def scratch_config(scratch: Scratch, tokenizer: Any) -> Any:
    """Return the transformers configuration of a model to be made from nothing.

    Raises:
        ConfigError: When the model type or one of its keys is not known.
    """
    try:
        plain = AutoConfig.for_model(scratch.model_type)
    except ValueError as error:
        raise ConfigError(
            f"model_type {scratch.model_type!r} is not one that transformers has, such as gpt2, "
            "llama, mistral, qwen2 or qwen3."
        ) from error
    settings = _translated(scratch, plain)
    try:
        return AutoConfig.for_model(
            scratch.model_type,
            **settings,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    except Exception as error:  # transformers raises a kind of its own for each fault
        raise ConfigError(
            f"a {scratch.model_type} with {settings} cannot be: {first_line(error)}"
        ) from error


def _translated(scratch: Scratch, plain: Any) -> dict[str, Any]:
    """Return the settings under the names this family knows; refuse those it does not."""
    known = {*plain.to_dict(), *plain.attribute_map}
    settings = dict(scratch.config)
    if "intermediate_size" in settings and "intermediate_size" not in known:
        name = next((n for n in INTERMEDIATE_SIZE if n in known), "intermediate_size")
        settings[name] = settings.pop("intermediate_size")
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"models of type {scratch.model_type!r} have no setting {key!r}"
                f"{did_you_mean(key, known)}."
            )
    if "num_key_value_heads" in known and "num_attention_heads" in settings:
        settings.setdefault("num_key_value_heads", settings["num_attention_heads"])
    return settings


def make_causal(scratch: Scratch, tokenizer: Any, strategy: Strategy, seed: int) -> nn.Module:
    """Make a causal language model with random weights.

    Raises:
        ConfigError: When the configuration makes no model.
    """
    config = scratch_config(scratch, tokenizer)
    set_dropout(config, 0.0)
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"a {scratch.model_type} with {scratch.config} cannot be made: {first_line(error)}"
        ) from error
    return ready(model, strategy, trained=True)
