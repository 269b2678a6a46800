"""Credit assignment: KL rewards, GAE, whitening, and the three in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairlead_kernels.bench.cases.inputs import normal, prefix_mask, refill
from fairlead_kernels.bench.workload import Cost, Inputs, Outputs, Shape, Workload, widened

__all__ = ["WORKLOADS"]

BETA = 0.05
_SHAPES: dict[str, tuple[Shape, ...]] = {"cpu": ((512, 256),), "cuda": ((1024, 1024),)}


def _make_rewards(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    logprobs = normal(*shape, dtype=dtype, generator=generator).abs_().neg_()
    drift = normal(*shape, dtype=dtype, generator=generator).mul_(0.1)
    kwargs: dict[str, Any] = {
        "logprobs": logprobs,
        "ref_logprobs": logprobs + drift,
        "scores": normal(shape[0], dtype=torch.float32, generator=generator),
        "response_mask": prefix_mask(shape, generator),
        "beta": BETA,
    }
    return Inputs(kwargs)


def _make_gae(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    kwargs = {
        "rewards": normal(*shape, dtype=dtype, generator=generator).mul_(0.1),
        "values": normal(*shape, dtype=dtype, generator=generator),
        "response_mask": prefix_mask(shape, generator),
    }
    return Inputs(kwargs)


def _make_whiten(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    x = normal(*shape, dtype=dtype, generator=generator).mul_(2).add_(0.5)
    return Inputs({"x": x, "mask": prefix_mask(shape, generator)})


def _make_fused(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    inputs = _make_rewards(shape, dtype, generator)
    return inputs.replaced(values=normal(*shape, dtype=dtype, generator=generator))


def _rewards(
    logprobs: Tensor, ref_logprobs: Tensor, scores: Tensor, response_mask: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    kl = (logprobs - ref_logprobs) * response_mask
    rewards = -beta * kl
    last = response_mask.sum(dim=1) - 1
    rewards[torch.arange(len(last), device=last.device), last] += scores
    return rewards, kl


def _gae(rewards: Tensor, values: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    gamma, lam = 1.0, 0.95
    rewards, values = rewards * response_mask, values * response_mask
    steps = rewards.shape[1]
    running: Tensor | float = 0.0
    backwards = []
    for t in reversed(range(steps)):
        following = values[:, t + 1] if t < steps - 1 else 0.0
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = delta + gamma * lam * running
        backwards.append(running)
    advantages = torch.stack(backwards[::-1], dim=1) * response_mask
    return advantages, advantages + values


def _whiten(x: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def _fused(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    scores: Tensor,
    response_mask: Tensor,
    beta: float,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rewards, kl = _rewards(logprobs, ref_logprobs, scores, response_mask, beta)
    advantages, returns = _gae(rewards, values, response_mask)
    return rewards, kl, _whiten(advantages, response_mask), returns


def _cost(inputs: Inputs, flops: int) -> Cost:
    """What counts is read, with the mask; results are written in full: zeros count too."""
    mask = _mask(inputs)
    counted = int(mask.sum())
    read = [
        counted * value.element_size() if value.shape == mask.shape else value.nbytes
        for value in inputs.kwargs.values()
        if isinstance(value, Tensor) and value.dtype != torch.bool
    ]
    results = {"rewards": 2, "logprobs": 4 if "values" in inputs.kwargs else 2, "x": 1}
    written = next(count for name, count in results.items() if name in inputs.kwargs)
    return Cost(sum(read) + mask.numel() * (1 + 4 * written), flops * counted)


def _mask(inputs: Inputs) -> Tensor:
    mask: Tensor = inputs.kwargs["mask" if "mask" in inputs.kwargs else "response_mask"]
    return mask


def _spoil(inputs: Inputs) -> Inputs:
    mask = _mask(inputs)
    spoilt = {
        name: refill(value, mask)
        for name, value in inputs.kwargs.items()
        if isinstance(value, Tensor) and value.shape == mask.shape and value.is_floating_point()
    }
    return inputs.replaced(**spoilt)


def _zero_outside(inputs: Inputs, outputs: Outputs) -> list[str]:
    outside = ~_mask(inputs)
    return [
        f"{name} is not 0 outside the response"
        for name, value in outputs.items()
        if bool(value[outside].any())
    ]


def _workload(op: str, make: Any, outputs: tuple[str, ...], eager: Any, **more: Any) -> Workload:
    flops = more.pop("flops")
    return Workload(
        op=op,
        name="forward",
        axes=("B", "T"),
        shapes=_SHAPES,
        make=make,
        outputs=outputs,
        eager=widened(eager),
        cost=lambda inputs: _cost(inputs, flops),
        spoil=_spoil,
        check=_zero_outside,
        swept=("B", "T"),
        **more,
    )


WORKLOADS = (
    _workload("kl_rewards", _make_rewards, ("rewards", "kl"), _rewards, flops=3),
    _workload("gae", _make_gae, ("advantages", "returns"), _gae, flops=6, loop="T"),
    _workload("whiten", _make_whiten, ("result",), _whiten, flops=7),
    _workload(
        "kl_gae_whiten",
        _make_fused,
        ("rewards", "kl", "advantages", "returns"),
        _fused,
        flops=16,
        loop="T",
    ),
)
