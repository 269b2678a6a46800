"""Generalised advantage estimation over response tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import discount, prefix_mask, same_shape, shape_error, tensors
from fairlead_kernels._torch_op import TorchOp, unlike
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "gae"]


def gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Advantages and returns.

    `delta_t = r_t + gamma V_{t+1} - V_t`, `A_t = delta_t + gamma lam A_{t+1}`, returns `A_t + V_t`,
    with V after the last response token 0. Schulman et al. 2016 (arXiv 1506.02438), equations 11
    and 16. Fidelity items 20, 21, 28 and 29.

    Positions outside the response are zero in both results and without influence, NaN included.
    All arithmetic is float32.

    Args:
        rewards: `[B, T]`.
        values: `[B, T]`, the value of the state before each response token.
        response_mask: `[B, T]`, boolean: a contiguous prefix of each row, True first.
        gamma: The discount, in [0, 1].
        lam: The trace decay, lambda, in [0, 1].
        impl: An implementation's name, or `auto`.

    Returns:
        Advantages (not whitened) and returns, `[B, T]`, float32.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape or dtype that is not the above, a mask that is not a prefix of its row,
            a gamma or lambda outside [0, 1].
        KernelError: `impl` cannot run on these inputs.
    """
    tensors("gae", rewards=rewards, values=values, response_mask=response_mask)
    if rewards.dim() != 2:
        raise shape_error("gae", "rewards must be [B, T]", rewards)
    same_shape("gae", rewards, mask=response_mask, values=values)
    discount("gae", gamma=gamma, lam=lam)
    prefix_mask("gae", response_mask)
    advantages, returns = registry.call(
        "gae",
        impl,
        rewards.float().contiguous(),
        values.float().contiguous(),
        response_mask.contiguous(),
        gamma,
        lam,
    )
    return advantages, returns


def _reference(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    # Both are zero past the response before a delta is formed: there is no bootstrap.
    rewards = torch.where(response_mask, rewards, 0.0)
    values = torch.where(response_mask, values, 0.0)
    running = next_value = rewards.new_zeros(rewards.shape[0])
    reversed_advantages = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = delta + gamma * lam * running
        next_value = values[:, t]
        reversed_advantages.append(running)
    if not reversed_advantages:
        return torch.zeros_like(rewards), torch.zeros_like(rewards)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    advantages = torch.where(response_mask, advantages, 0.0)
    return advantages, advantages + values


def _results(rewards: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards)


def _check(rewards: Tensor, values: Tensor, response_mask: Tensor, *_others: object) -> str | None:
    if rewards.dim() != 2:
        return f"rewards must be [B, T], got {tuple(rewards.shape)}"
    return unlike(rewards, mask=response_mask, values=values)


OPERATION = TorchOp(
    "(Tensor rewards, Tensor values, Tensor response_mask, float gamma, float lam)"
    " -> (Tensor, Tensor)",
    _results,
    _check,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    zeros = torch.zeros(2, 4, device=device)
    return zeros, zeros, torch.ones(2, 4, dtype=torch.bool, device=device), 1.0, 0.95


def _triton_supports(rewards: Tensor, values: Tensor, *_others: object) -> str | None:
    return triton.refuse(rewards, values)


registry.define("gae", _reference, _probe)
_TRITON = OPERATION.define("triton_gae", triton.launcher("gae:gae"))
triton.register("gae", _TRITON, _triton_supports)
