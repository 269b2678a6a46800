"""`gae` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.native.layout import unlike

__all__: list[str] = []


def _check(rewards: Tensor, values: Tensor, response_mask: Tensor) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    if rewards.dim() != 2:
        return f"rewards must be [B, T], got {tuple(rewards.shape)}"
    return unlike(rewards, mask=response_mask, values=values)


def _supports(
    device: str, rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> str | None:
    return native.refuse(device, rewards, values) or _check(rewards, values, response_mask)


def _launch(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    problem = _check(rewards, values, response_mask)
    if problem is not None:
        raise ValueError(f"gae: {problem}")
    results = torch.empty_like(rewards), torch.empty_like(rewards)
    native.call("gae", rewards, values, response_mask, *results, *rewards.shape, gamma, lam)
    return results


def _fake(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards)


native.define(
    "gae(Tensor rewards, Tensor values, Tensor response_mask, float gamma, float lam)"
    " -> (Tensor, Tensor)",
    _launch,
    _fake,
)


def _gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    advantages, returns = torch.ops.fairlead_kernels.gae(rewards, values, response_mask, gamma, lam)
    return advantages, returns


for _device in ("cpu", "cuda"):
    native.register("gae", _device, _gae, _supports)
