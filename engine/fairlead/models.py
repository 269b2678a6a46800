"""Causal language models: loading, from scratch or not, and the one forward that is used.

Sequences are contiguous and padded on the right, so a causal model needs no attention mask:
no position that counts can see the padding (fidelity item 27).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from fairlead.config import Config
from fairlead.errors import ConfigError
from fairlead.strategy import Strategy
from fairlead_kernels import token_logprobs

# Loading prints progress bars and advice meant for other ways of using transformers.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

RESIDUAL_DROPOUT = ("resid_pdrop", "hidden_dropout", "dropout")
OTHER_DROPOUT = ("embd_pdrop", "attn_pdrop", "attention_dropout", "activation_dropout", "layerdrop")


class Scratch(Config):
    """A model to be made from nothing.

    Attributes:
        model_type: A transformers model type, such as ``gpt2``, ``llama`` or ``qwen2``.
        config: Its configuration; ``hidden_size``, ``num_hidden_layers``,
            ``num_attention_heads`` and ``max_position_embeddings`` are read by every type.
            The vocabulary size is the tokenizer's.
    """

    model_type: str
    config: dict[str, Any] = Field(default_factory=dict)


def load_config(location: str, *, trust_remote_code: bool = False) -> Any:
    """Return a model's transformers configuration.

    Raises:
        ConfigError: When the location is no model directory and no known hub name.
    """
    path = Path(location)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(
            f"{location} is not a model directory: it has no config.json. Give a directory "
            "written by save_pretrained (a finished stage's, say), or a hub name."
        )
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{location!r} is neither a readable model directory nor a hub name that can be "
            f"reached: {_first_line(error)}"
        ) from error


def load_causal(
    location: str,
    strategy: Strategy,
    *,
    trained: bool,
    residual_dropout: float = 0.0,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a causal language model.

    Args:
        location: A directory or hub name.
        strategy: Where it goes.
        trained: Whether its weights will change; a frozen one takes the run's precision.
        residual_dropout: Dropout on the residual branches while training; every other
            dropout is off. The RL stage trains in evaluation mode whatever this says.
        trust_remote_code: Allow the model's own code to run.

    Raises:
        ConfigError: When it cannot be loaded, or has no residual dropout to set.
    """
    config = load_config(location, trust_remote_code=trust_remote_code)
    _set_dropout(config, residual_dropout)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            location, config=config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no causal language model can be loaded from {location!r}: {_first_line(error)}"
        ) from error
    return _ready(model, strategy, trained)


def make_causal(scratch: Scratch, tokenizer: Any, strategy: Strategy, seed: int) -> nn.Module:
    """Make a causal language model with random weights.

    Raises:
        ConfigError: When the model type or its configuration is not one transformers has.
    """
    config = scratch_config(scratch, tokenizer)
    _set_dropout(config, 0.0)
    torch.manual_seed(seed)
    return _ready(AutoModelForCausalLM.from_config(config), strategy, trained=True)


def scratch_config(scratch: Scratch, tokenizer: Any) -> Any:
    """Return the transformers configuration of a model to be made from nothing."""
    try:
        return AutoConfig.for_model(
            scratch.model_type,
            **{
                **scratch.config,
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"model_type {scratch.model_type!r} with {scratch.config} makes no model: "
            f"{_first_line(error)}. Use a transformers model type and its configuration keys."
        ) from error
    except Exception as error:  # huggingface_hub's strict dataclasses raise their own kind
        raise ConfigError(f"config of {scratch.model_type!r}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _set_dropout(config: Any, residual: float) -> None:
    for name in OTHER_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    there = [name for name in RESIDUAL_DROPOUT if hasattr(config, name)]
    if residual > 0 and not there:
        raise ConfigError(
            f"residual_dropout={residual}: models of type {config.model_type!r} have no residual "
            "dropout. Set residual_dropout=0."
        )
    for name in there:
        setattr(config, name, residual)


def _ready(model: Any, strategy: Strategy, trained: bool) -> nn.Module:
    # A hub model may come with sampling settings (top-k, repetition penalty); a rollout's
    # distribution is the model's own, so they are dropped, here and in what is exported.
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    placed: nn.Module = strategy.place(model, trained=trained)
    placed.eval()
    placed._plain_head = _head_is_plain(placed)  # type: ignore[assignment]
    return placed


@torch.no_grad()
def _head_is_plain(model: Any) -> bool:
    """Whether logits are just the head applied to the last hidden state.

    Some families scale or cap their logits after it. Asking the model once is surer than a
    list of families.
    """
    tokens = torch.arange(3, device=model.device)[None] % model.config.vocab_size
    if model.get_output_embeddings() is None:
        return False
    hidden = hidden_states(model, tokens)
    return torch.allclose(model.get_output_embeddings()(hidden), model(input_ids=tokens).logits)


def hidden_states(
    model: nn.Module,
    tokens: Tensor,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states, ``[B, S, H]``, of a causal or scalar model's body.

    Args:
        model: A transformers model with a head.
        tokens: ``[B, S]`` int64.
        positions: ``[B, S]`` int64 for packed rows; else 0..S-1.
        attention: ``[B, 1, S, S]`` bool for packed rows; else causal.
    """
    body: Any = model.base_model
    output = body(
        input_ids=tokens, position_ids=positions, attention_mask=attention, use_cache=False
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def target_logits(
    model: Any,
    tokens: Tensor,
    targets: Tensor,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
) -> Tensor:
    """Return the logits that predict each target token, ``[N, V]``, in row order.

    The head runs on those positions alone: position p predicts token p + 1, so the last
    prompt position predicts the first response token (fidelity item 1).

    Args:
        model: A causal language model.
        tokens: ``[B, S]`` int64.
        targets: ``[B, S]`` bool, True where a token is to be predicted; N of them.
        positions: As in `hidden_states`.
        attention: As in `hidden_states`.
    """
    predictors = predicting_positions(targets)
    if model._plain_head:
        hidden = hidden_states(model, tokens, positions, attention)
        logits: Tensor = model.get_output_embeddings()(hidden[predictors])
        return logits
    whole = model(
        input_ids=tokens, position_ids=positions, attention_mask=attention, use_cache=False
    )
    logits = whole.logits[predictors]
    return logits


def predicting_positions(targets: Tensor) -> Tensor:
    """Shift a target mask ``[B, S]`` to the positions that predict those targets."""
    if targets.shape[1] and bool(targets[:, 0].any()):
        raise ValueError("the first token of a sequence cannot be a target: nothing predicts it")
    return torch.cat([targets[:, 1:], torch.zeros_like(targets[:, :1])], dim=1)


def target_logprobs(
    model: nn.Module,
    tokens: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    positions: Tensor | None = None,
    attention: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy at each target token, ``[N]`` float32 each."""
    logits = target_logits(model, tokens, targets, positions, attention)
    return token_logprobs(logits, tokens[targets], temperature)


def context_length(config: Any) -> int:
    """Return the most positions a model takes."""
    return int(getattr(config, "max_position_embeddings", 0) or 1 << 30)


def parameter_count(config: Any) -> int:
    """Return how many parameters a causal model of this configuration has."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write a plain transformers directory."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def memory_estimate(
    models: Sequence[tuple[str, int, str]], logits: tuple[int, int], precision: str
) -> dict[str, float]:
    """Estimate GiB by part.

    Args:
        models: (name, parameters, role), the role one of ``trained`` (float32 weights,
            gradients and two Adam moments: 16 bytes), ``averaged`` (4) or ``frozen``.
        logits: (tokens of a microbatch that are predicted, vocabulary): float32 logits,
            their gradient and one working copy.
        precision: The run's.
    """
    frozen = 2 if precision == "bfloat16" else 4
    bytes_each = {"trained": 16, "averaged": 4, "frozen": frozen}
    parts = {name: count * bytes_each[role] / 2**30 for name, count, role in models}
    parts["logits of a microbatch"] = 3 * 4 * logits[0] * logits[1] / 2**30
    return {**parts, "together": sum(parts.values())}
