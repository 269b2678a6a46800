"""xformers' attention in transformers models, for the forward passes of a run."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from fairlead.errors import ConfigError

XFORMERS = "fairlead_xformers"

CHANGES_SCORES = ("softcap", "position_bias", "s_aux")
"""What some families pass to attention that a function of our own would lose: Gemma 2 caps its
scores, T5 adds to them, gpt-oss has a sink."""


def use_xformers(model: Any) -> None:
    """Have a model attend by xformers.

    Raises:
        ConfigError: When models of its kind cannot be told how to attend.
    """
    if not hasattr(model, "set_attn_implementation"):
        model = getattr(model, "model", model)  # what a ScalarModel wraps
    AttentionInterface.register(XFORMERS, xformers_attention)
    # Without one the mask would silently be None. xformers is given what torch's attention is.
    AttentionMaskInterface.register(XFORMERS, sdpa_mask)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(XFORMERS)
    if getattr(getattr(model, "config", None), "_attn_implementation", None) != XFORMERS:
        raise ConfigError(
            f"attention=xformers: {type(model).__name__} does not let its attention be replaced. "
            "Use attention=auto."
        )


def xformers_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' own functions do: from ``[B, H, S, D]`` to ``[B, S, H, D]``."""
    for name in CHANGES_SCORES:
        if more.get(name) is not None:
            raise ConfigError(
                f"attention=xformers does not take this model's {name}. Use attention=auto."
            )
    ops = importlib.import_module("xformers.ops")
    kind = query.device.type
    # Rotary embeddings may leave float32 queries beside bfloat16 values.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    group = query.shape[1] // key.shape[1]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    bias: Any = None
    if attention_mask is not None:
        bias = _bias(attention_mask, dtype, query.shape, key.shape[2])
    elif causal and query.shape[2] > 1:
        if query.shape[2] != key.shape[2]:
            raise ValueError(
                f"{query.shape[2]} queries for {key.shape[2]} keys without a mask: which of them "
                "counts for which is not said"
            )
        bias = ops.LowerTriangularMask()
    if group > 1:
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    out: Tensor = ops.memory_efficient_attention(
        *(x.transpose(1, 2).to(dtype) for x in (query, key, value)),
        attn_bias=bias,
        p=dropout,
        scale=scaling,
    )
    return out, None


def _bias(mask: Tensor, dtype: torch.dtype, shape: torch.Size, keys: int) -> Tensor:
    """Return a mask as what is added to the scores, ``[B, H, Sq, Sk]``."""
    if mask.dtype == torch.bool:
        added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        mask = added.masked_fill(~mask, torch.finfo(dtype).min)
    # Its rows must start at multiples of 8: room for that is left past them.
    room = torch.nn.functional.pad(mask.to(dtype)[..., :keys], (0, -keys % 8))
    return room[..., :keys].expand(*shape[:3], keys)
