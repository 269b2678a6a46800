"""PPO's clipped losses with their metrics, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels.bench.cases.inputs import normal, prefix_mask, refill
from fairlead_kernels.bench.workload import Cost, Inputs, Outputs, Shape, Workload, widened

__all__ = ["WORKLOADS"]

CLIP = 0.2
# Inputs keep this far off the places where a rounding error decides which term the loss takes.
_CLEAR = 1e-3
_SHAPES: dict[str, tuple[Shape, ...]] = {"cpu": ((512, 256),), "cuda": ((1024, 1024),)}


def _upstream(generator: torch.Generator) -> dict[str, Tensor]:
    return {"loss": torch.tensor(0.5, device=generator.device)}


def _make_policy(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    old = normal(*shape, dtype=dtype, generator=generator).abs_().neg_()
    logprobs = old + normal(*shape, dtype=dtype, generator=generator).mul_(0.2)
    ratio = (logprobs.double() - old.double()).exp()
    edge = ((ratio - 1).abs() - CLIP).abs() < _CLEAR
    kwargs = {
        "logprobs": torch.where(edge, old, logprobs),
        "old_logprobs": old,
        "advantages": normal(*shape, dtype=dtype, generator=generator),
        "mask": prefix_mask(shape, generator),
    }
    return Inputs(kwargs, _upstream(generator), ("logprobs",))


def _make_value(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    old = normal(*shape, dtype=dtype, generator=generator)
    values = old + normal(*shape, dtype=dtype, generator=generator).mul_(0.2)
    returns = old + normal(*shape, dtype=dtype, generator=generator).mul_(0.5)
    clipped = torch.clamp(values.double(), old.double() - CLIP, old.double() + CLIP)
    errors = (values.double() - returns).abs() - (clipped - returns).abs()
    edge = ((values.double() - old).abs() - CLIP).abs() < _CLEAR
    edge |= (errors.abs() < _CLEAR) & (clipped != values)
    kwargs = {
        "values": torch.where(edge, old, values),
        "old_values": old,
        "returns": returns,
        "mask": prefix_mask(shape, generator),
    }
    return Inputs(kwargs, _upstream(generator), ("values",))


def _policy(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, ...]:
    log_ratio = (logprobs - old_logprobs) * mask
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    loss = (torch.max(unclipped, clipped) * mask).sum()
    with torch.no_grad():
        approxkl = (0.5 * log_ratio.square() * mask).sum()
        clipfrac = ((clipped > unclipped) * mask).to(loss.dtype).sum()
        counted = ratio * mask
    return loss, mask.sum(), approxkl, clipfrac, counted.sum(), counted.square().sum()


def _value(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    within = torch.clamp(values, old_values - CLIP, old_values + CLIP)
    error, clipped = (values - returns).square(), (within - returns).square()
    loss = 0.5 * (torch.max(error, clipped) * mask).sum()
    with torch.no_grad():
        clipfrac = ((clipped > error) * mask).to(loss.dtype).sum()
    return loss, mask.sum(), clipfrac


def _policy_terms(inputs: Inputs) -> Outputs:
    """The loss adds up terms of both signs."""
    kwargs = inputs.kwargs
    ratio = ((kwargs["logprobs"] - kwargs["old_logprobs"]) * kwargs["mask"]).exp()
    return {"loss": (kwargs["advantages"].abs() * ratio * kwargs["mask"]).sum()}


def _cost(inputs: Inputs) -> Cost:
    """Three inputs read where the mask counts, the mask, and the gradient written once."""
    mask = inputs.kwargs["mask"]
    leaf = inputs.kwargs[inputs.leaves[0]]
    counted, size = int(mask.sum()), leaf.element_size()
    return Cost(3 * size * counted + mask.numel() * (1 + size), 20 * counted)


def _spoil(inputs: Inputs) -> Inputs:
    mask = inputs.kwargs["mask"]
    spoilt = {name: refill(value, mask) for name, value in inputs.kwargs.items() if name != "mask"}
    return inputs.replaced(**spoilt)


WORKLOADS = (
    Workload(
        op="ppo_policy_loss",
        name="forward+backward",
        axes=("B", "T"),
        shapes=_SHAPES,
        make=_make_policy,
        outputs=("loss", "weight", "approxkl", "clipfrac", "ratio", "ratio_sq"),
        eager=widened(_policy),
        terms=_policy_terms,
        cost=_cost,
        spoil=_spoil,
        swept=("B", "T"),
    ),
    Workload(
        op="ppo_value_loss",
        name="forward+backward",
        axes=("B", "T"),
        shapes=_SHAPES,
        make=_make_value,
        outputs=("loss", "weight", "clipfrac"),
        eager=widened(_value),
        cost=_cost,
        spoil=_spoil,
        swept=("B", "T"),
    ),
)
