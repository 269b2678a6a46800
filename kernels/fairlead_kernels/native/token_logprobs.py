"""`token_logprobs` in native code."""

from __future__ import annotations

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._checks import takes
from fairlead_kernels._logprob_ops import define_token_logprobs
from fairlead_kernels.native.logprobs import BLOCKS

__all__: list[str] = []


def _supports(
    device: str,
    logits: Tensor,
    labels: Tensor,
    temperature: float,
    inplace_backward: bool = False,
) -> str | None:
    return takes(logits) or native.refuse(device, logits, labels, gradient=True)


native.register("token_logprobs", "cpu", define_token_logprobs("token_logprobs", BLOCKS), _supports)
