"""Attention in transformers models while they generate: causal over a prompt, then one query a row.

A model is told to attend with `attend` for as long as it generates. Prompts are padded on the
right and start at position 0, so causal attention needs no mask; afterwards each row has a length
of its own, which `decode_attention` takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from fairlead.attention import CHANGES_SCORES
from fairlead.errors import ConfigError
from fairlead.generation import HF
from fairlead_kernels import decode_attention

NAME = "fairlead_native"

_LENGTHS: ContextVar[Tensor | None] = ContextVar("lengths", default=None)
_POSITIONS: ContextVar[int] = ContextVar("positions", default=0)


@contextmanager
def attending(model: Any, positions: int) -> Iterator[None]:
    """Have a model attend with `attend`, and as before afterwards.

    Args:
        model: A causal language model.
        positions: Of the longest sequence there will be.

    Raises:
        ConfigError: When models of its kind cannot be told how to attend.
    """
    AttentionInterface.register(NAME, attend)
    # Without a mask function the mask would silently be None; here it is None knowingly.
    AttentionMaskInterface.register(NAME, _no_mask)
    before = getattr(model.config, "_attn_implementation", None)
    token = _POSITIONS.set(positions)
    try:
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation(NAME)
        if getattr(model.config, "_attn_implementation", None) != NAME:
            raise ConfigError(
                f"the native rollout backend: {type(model).__name__} does not let its attention be "
                f"replaced. Use {HF}."
            )
        yield
    finally:
        _POSITIONS.reset(token)
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation(before)


@contextmanager
def decoding(lengths: Tensor) -> Iterator[None]:
    """Within it `attend` takes one query a row, over the first ``lengths[b]`` positions."""
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' own functions do: from ``[B, H, S, D]`` to ``[B, S, H, D]``."""
    for name in CHANGES_SCORES:
        if more.get(name) is not None:
            raise ConfigError(
                f"the native rollout backend does not take this model's {name}. Use {HF}."
            )
    lengths = _LENGTHS.get()
    if lengths is not None:
        # Rotary embeddings may leave float32 queries beside a bfloat16 cache.
        one = decode_attention(query[:, :, 0].to(key.dtype), key, value, lengths, scaling)
        return one[:, None], None
    out = torch.nn.functional.scaled_dot_product_attention(
        query.to(key.dtype),
        key,
        value,
        is_causal=True,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2), None


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """Return no mask: see `attend`.

    Raises:
        ConfigError: When some layers attend to a part of the positions only (a sliding window,
            chunks), and there will be more than fit into it.
    """
    positions = _POSITIONS.get()
    if local_size and positions > local_size:
        raise ConfigError(
            f"sequences of up to {positions} tokens, and layers of this model attend to "
            f"{local_size} of them only, which the native rollout backend does not do. Use "
            f"shorter sequences, or {HF}."
        )
