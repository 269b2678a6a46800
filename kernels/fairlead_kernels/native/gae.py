"""`gae` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native

__all__: list[str] = []


def _check(rewards: Tensor, values: Tensor, response_mask: Tensor) -> str | None:
    """Why these tensors' memory is not what the kernel reads, or None."""
    if rewards.dim() != 2 or rewards.dtype != torch.float32:
        return f"rewards must be float32 [B, T], got {tuple(rewards.shape)} {rewards.dtype}"
    if values.shape != rewards.shape or values.dtype != torch.float32:
        return f"values must be float32 {tuple(rewards.shape)}, got {tuple(values.shape)}"
    if response_mask.shape != rewards.shape or response_mask.dtype != torch.bool:
        return f"response_mask must be boolean {tuple(rewards.shape)}"
    if values.device != rewards.device or response_mask.device != rewards.device:
        return "rewards, values and response_mask must be on one device"
    if not (rewards.is_contiguous() and values.is_contiguous() and response_mask.is_contiguous()):
        return "rewards, values and response_mask must be contiguous"
    return None


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
