"""`token_logprobs` in Triton."""

from __future__ import annotations

from fairlead_kernels._logprob_ops import define_token_logprobs
from fairlead_kernels.triton.logprobs import BLOCKS

__all__ = ["token_logprobs"]

token_logprobs = define_token_logprobs("triton_token_logprobs", BLOCKS)
