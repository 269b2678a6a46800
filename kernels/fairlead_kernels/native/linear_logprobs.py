"""`linear_logprobs` in native code: torch's matrix products, our kernels on their results."""

from __future__ import annotations

from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._checks import takes
from fairlead_kernels._linear_logprob_ops import define_linear_logprobs
from fairlead_kernels.native.logprobs import BLOCKS

__all__: list[str] = []


def _supports(
    device: str,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float,
    bias: Tensor | None,
    memory_bytes: int = 0,
) -> str | None:
    return takes(hidden) or native.refuse(device, hidden, weight, labels, bias, gradient=True)


native.register(
    "linear_logprobs", "cpu", define_linear_logprobs("linear_logprobs", BLOCKS), _supports
)
