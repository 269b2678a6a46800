"""`sample` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.native.layout import FLOAT_TYPES

__all__: list[str] = []

# A block of the CUDA kernel holds 24 bytes for every 1,024 tokens, in 48 KiB less its own.
_CUDA_VOCABULARY = 1 << 20


def _check(logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> str | None:
    """Why these are not what the kernel takes, or None."""
    if logits.dim() != 2 or logits.shape[1] == 0 or logits.dtype not in FLOAT_TYPES:
        return (
            "logits must be float32, bfloat16 or float16 [B, V] with V > 0, "
            f"got {tuple(logits.shape)} {logits.dtype}"
        )
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        return f"logits must have unit stride along a row, got {logits.stride(1)}"
    if u.shape != logits.shape[:1] or u.dtype != torch.float64 or not u.is_contiguous():
        return f"u must be contiguous float64 [{logits.shape[0]}]"
    if u.device != logits.device:
        return "logits and u must be on one device"
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        return (
            "temperature and top_k must be at least 0 and top_p in (0, 1], "
            f"got {temperature}, {top_k} and {top_p}"
        )
    if logits.device.type == "cuda" and logits.shape[1] > _CUDA_VOCABULARY:
        return f"on CUDA it takes up to {_CUDA_VOCABULARY} tokens, these are {logits.shape[1]}"
    return None


def _supports(
    device: str, logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> str | None:
    return native.refuse(device, logits, u) or _check(logits, u, temperature, top_k, top_p)


def _results(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[:1]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
    )


def _launch(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    problem = _check(logits, u, temperature, top_k, top_p)
    if problem is not None:
        raise ValueError(f"sample: {problem}")
    results = _results(logits)
    shape = (*logits.shape, logits.stride(0), FLOAT_TYPES[logits.dtype])
    native.call("sample", logits, u, *results, *shape, temperature, top_k, top_p)
    return results


def _fake(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(logits)


native.define(
    "sample(Tensor logits, Tensor u, float temperature, int top_k, float top_p)"
    " -> (Tensor, Tensor, Tensor)",
    _launch,
    _fake,
)


def _sample(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    token, logprob, entropy = torch.ops.fairlead_kernels.sample(
        logits, u, temperature, top_k, top_p
    )
    return token, logprob, entropy


for _device in ("cpu", "cuda"):
    native.register("sample", _device, _sample, _supports)
