"""The Triton kernels of `token_logprobs` and `linear_logprobs`, without triton until they run."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels._logprob_ops import Blocks
from fairlead_kernels.triton import launcher

__all__ = ["BLOCKS"]


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


BLOCKS = Blocks(
    forward=launcher("logprobs:forward"),
    backward=launcher("logprobs:backward"),
    empty=_empty,
    state=torch.float32,
)
