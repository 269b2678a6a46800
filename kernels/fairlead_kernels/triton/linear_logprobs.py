"""`linear_logprobs` in Triton: torch's matrix products, our kernels on their results."""

from __future__ import annotations

from fairlead_kernels._linear_logprob_ops import define_linear_logprobs
from fairlead_kernels.triton.logprobs import BLOCKS

__all__ = ["linear_logprobs"]

linear_logprobs = define_linear_logprobs("triton_linear_logprobs", BLOCKS)
