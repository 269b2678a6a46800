"""`sample` in native code."""

from __future__ import annotations

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.native.layout import FLOAT_TYPES
from fairlead_kernels.sample import OPERATION

__all__: list[str] = []

# A block of the CUDA kernel holds 24 bytes for every 1,024 tokens, in 48 KiB less its own.
_CUDA_VOCABULARY = 1 << 20


def _too_large(logits: Tensor) -> str | None:
    if logits.device.type == "cuda" and logits.shape[1] > _CUDA_VOCABULARY:
        return f"on CUDA it takes up to {_CUDA_VOCABULARY} tokens, these are {logits.shape[1]}"
    return None


def _supports(
    device: str, logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> str | None:
    problem = OPERATION.check(logits, u, temperature, top_k, top_p)
    return native.refuse(device, logits, u) or problem or _too_large(logits)


def _launch(
    logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    problem = _too_large(logits)
    if problem is not None:
        raise ValueError(f"sample: {problem}")
    results: tuple[Tensor, Tensor, Tensor] = OPERATION.results(logits)
    rows = native.Rows(logits.shape[0])
    shape = (rows, logits.shape[1], logits.stride(0), FLOAT_TYPES[logits.dtype])
    native.call("sample", logits, u, *results, *shape, temperature, top_k, top_p)
    return results


_sample = OPERATION.define("sample", _launch)
for _device in ("cpu", "cuda"):
    native.register("sample", _device, _sample, _supports)
