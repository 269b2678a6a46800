"""Writing the average of the policy's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fairlead.models import save_model
from fairlead.optim import WeightAverage


@torch.no_grad()
def save_average(
    policy: torch.nn.Module, average: WeightAverage, tokenizer: Any, directory: Path
) -> None:
    """Write the averaged policy under ``ema/``; the raw one is back in place afterwards."""
    raw = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    for name, parameter in policy.named_parameters():
        parameter.copy_(average.average[name])
    save_model(policy, tokenizer, directory / "ema")
    for name, parameter in policy.named_parameters():
        parameter.copy_(raw[name])
