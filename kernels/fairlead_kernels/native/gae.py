"""`gae` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.gae import OPERATION

__all__: list[str] = []


def _supports(device: str, rewards: Tensor, values: Tensor, *_others: object) -> str | None:
    return native.refuse(device, rewards, values)


def _launch(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    results = torch.empty_like(rewards), torch.empty_like(rewards)
    native.call("gae", rewards, values, response_mask, *results, *rewards.shape, gamma, lam)
    return results


_gae = OPERATION.define("gae", _launch)
for _device in ("cpu", "cuda"):
    native.register("gae", _device, _gae, _supports)
