"""AdamW with the paper's betas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from fairlead.config import Config


class AdamWConfig(Config):
    """Settings of `AdamW`.

    Attributes:
        betas: The paper's (appendix C): 0.9 and 0.95, for every model.
        eps: lm-human-preferences' 1e-5; the paper does not state it.
        weight_decay: Not stated in the paper; off.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class AdamW:
    """Makes ``torch.optim.AdamW``; weight decay leaves vectors (norms, biases) alone."""

    Config = AdamWConfig

    def __init__(self, config: AdamWConfig) -> None:
        self.config = config

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Return the optimizer; the learning rate is the stage's to set, step by step."""
        tensors = [parameter for _, parameter in parameters]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in tensors if p.ndim >= 2]},
            {"params": [p for p in tensors if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=1.0,
            betas=self.config.betas,
            eps=self.config.eps,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
