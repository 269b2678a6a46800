"""`decode_attention` by xformers, where it is installed and there is a GPU: it has no CPU path.

xformers reads a batch of sequences of different lengths from one long row, in which every sequence
has the same room. A contiguous cache is such a row without a copy: row b's head h is sequence
b Hkv + h, its room is S. The query heads of a group become heads that share one key head.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from fairlead_kernels.decode_attention import check_lengths
from fairlead_kernels.dispatch import OWN, registry

__all__ = ["xformers_missing"]

# Under this package's own kernels: it is taken by name, or where they cannot run.
_PRIORITY = 50
_MOST_DIM = 256


def xformers_missing() -> str | None:
    """Why xformers' attention cannot run on this machine and what to do, or None."""
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed (pip install 'fairlead[xformers]')"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device, and xformers has no CPU path"
    try:
        importlib.import_module("xformers.ops")
    except (ImportError, OSError, RuntimeError) as error:
        return f"xformers cannot be imported: {error}"
    return None


def _supports(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> str | None:
    if query.device.type != "cuda":
        return f"it runs on cuda tensors, these are on {query.device}"
    return _refusal(query, keys, values)


def _refusal(query: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """Why xformers does not take tensors of this layout, or None."""
    if query.dtype != keys.dtype:
        return f"it takes a query of the cache's dtype {keys.dtype}, this is {query.dtype}"
    if query.shape[2] % 8 or query.shape[2] > _MOST_DIM:
        return f"it takes heads of 8, 16, .. {_MOST_DIM} numbers, these have {query.shape[2]}"
    if query.numel() == 0 or keys.numel() == 0:
        return "it takes no empty batch or cache"
    if not (keys.is_contiguous() and values.is_contiguous()):
        return "it takes a contiguous cache [B, Hkv, S, D]"
    return None


def _decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    ops = importlib.import_module("xformers.ops")
    biases = importlib.import_module("xformers.ops.fmha.attn_bias")
    batch, heads, dim = query.shape
    kv_heads, positions = keys.shape[1:3]
    group = heads // kv_heads
    check_lengths(lengths, positions)
    # The mask is made of Python numbers: this waits for the device.
    counts = lengths.clamp(0, positions).repeat_interleave(kv_heads).tolist()
    mask = biases.BlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
        q_seqlen=[1] * len(counts), kv_padding=positions, kv_seqlen=counts
    ).to(query.device)
    if group == 1:
        asked = query.reshape(1, batch * kv_heads, 1, dim)
        cache = [x.view(1, batch * kv_heads * positions, 1, dim) for x in (keys, values)]
    else:
        asked = query.reshape(1, batch * kv_heads, 1, group, dim)
        shape = (1, batch * kv_heads * positions, 1, group, dim)
        cache = [x.view(1, -1, 1, 1, dim).expand(shape) for x in (keys, values)]
    out: Tensor = ops.memory_efficient_attention_forward(asked, *cache, attn_bias=mask, scale=scale)
    # What it gives for a sequence without keys is not said.
    empty = (lengths <= 0).view(-1, 1, 1)
    return out.reshape(batch, heads, dim).masked_fill(empty, 0.0)


registry.register(
    "decode_attention",
    "xformers",
    _decode_attention,
    available=xformers_missing,
    supports=_supports,
    priority=_PRIORITY,
    owner=OWN,
)
