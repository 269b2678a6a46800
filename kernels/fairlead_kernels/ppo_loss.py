"""The clipped losses of PPO, as sums with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import as_floats, finite, same_shape, tensors
from fairlead_kernels._torch_op import TorchOp, unlike
from fairlead_kernels.dispatch import registry

__all__ = [
    "POLICY",
    "VALUE",
    "PolicyLossMetrics",
    "ValueLossMetrics",
    "ppo_policy_loss",
    "ppo_value_loss",
    "refused",
]

_Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class PolicyLossMetrics:
    """Sums over the masked-in positions, float32 scalars without gradient.

    Attributes:
        approxkl: Of `0.5 * logratio^2`.
        clipfrac: Of 1 where the clipped term is the one the loss took.
        ratio: Of the probability ratio.
        ratio_sq: Of its square.
    """

    approxkl: Tensor
    clipfrac: Tensor
    ratio: Tensor
    ratio_sq: Tensor


@dataclass(frozen=True)
class ValueLossMetrics:
    """Sums over the masked-in positions, float32 scalars without gradient.

    Attributes:
        clipfrac: Of 1 where the clipped error is the one the loss took.
    """

    clipfrac: Tensor


def _check_clip(op: str, clip: float | None) -> None:
    if clip is not None:
        finite(op, clip=clip)
        if clip < 0:
            raise ValueError(f"{op}: clip must not be negative, got {clip}")


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, PolicyLossMetrics]:
    """Sum of `max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip))` over the masked-in positions.

    Schulman et al. 2017 (arXiv 1707.06347), equation 7. A sum, so that the caller divides by the
    weight of the whole optimizer batch (fidelity item 22). Positions outside the mask have no
    influence on a value or a gradient, NaN included (item 20); a NaN inside makes the sums NaN.
    The gradient goes to `logprobs` alone: where both terms are equal, half through each, as
    torch's maximum has it. `cpp` and `triton` form it in the pass that sums, and have no second
    derivative; their sums are the same in every bit from run to run and for any number of threads.

    Args:
        logprobs: Any shape, floating: the policy's now.
        old_logprobs: The same shape: the policy's at the rollout.
        advantages: The same shape.
        mask: The same shape, boolean, True where a position counts.
        clip: Half the width of the ratio's range.
        impl: An implementation's name, or `auto`.

    Returns:
        The sum, its weight (the number of positions) and sums for metrics, float32 scalars.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: Shapes, devices or dtypes that are not the above, or a clip below 0.
        KernelError: `impl` cannot run on these inputs.
    """
    others = {"old_logprobs": old_logprobs, "advantages": advantages}
    tensors("ppo_policy_loss", logprobs=logprobs, mask=mask, **others)
    same_shape("ppo_policy_loss", logprobs, mask=mask, **others)
    _check_clip("ppo_policy_loss", clip)
    loss, weight, metrics = registry.call(
        "ppo_policy_loss",
        impl,
        as_floats(logprobs),
        as_floats(old_logprobs.detach()),
        as_floats(advantages.detach()),
        mask.contiguous(),
        clip,
    )
    return loss, weight, metrics


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, ValueLossMetrics]:
    """Sum of `0.5 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)`.

    openai/lm-human-preferences, `train_policy.py`. A sum, as `ppo_policy_loss` is. Positions
    outside the mask have no influence on a value or a gradient, NaN included (fidelity item 20).
    The gradient goes to `values` alone. NaN inside, ties, second derivatives and sums are as there.

    Args:
        values: Any shape, floating: the value model's now.
        old_values: The same shape: the value model's at the rollout.
        returns: The same shape.
        mask: The same shape, boolean, True where a position counts.
        clip: How far a value may go from its old one; None turns clipping off.
        impl: An implementation's name, or `auto`.

    Returns:
        The sum, its weight (the number of positions) and sums for metrics, float32 scalars.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: Shapes, devices or dtypes that are not the above, or a clip below 0.
        KernelError: `impl` cannot run on these inputs.
    """
    others = {"old_values": old_values, "returns": returns}
    tensors("ppo_value_loss", values=values, mask=mask, **others)
    same_shape("ppo_value_loss", values, mask=mask, **others)
    _check_clip("ppo_value_loss", clip)
    loss, weight, metrics = registry.call(
        "ppo_value_loss",
        impl,
        as_floats(values),
        as_floats(old_values.detach()),
        as_floats(returns.detach()),
        mask.contiguous(),
        clip,
    )
    return loss, weight, metrics


def _policy_reference(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor, PolicyLossMetrics]:
    # The input of exp is masked: NaN past the response must not come back as a gradient.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip, 1.0 + clip)
    loss = torch.where(mask, torch.maximum(unclipped, clipped), 0.0).sum()
    with torch.no_grad():
        counted = torch.where(mask, ratio, 0.0)
        metrics = PolicyLossMetrics(
            approxkl=0.5 * log_ratio.square().sum(),
            clipfrac=((clipped > unclipped) & mask).sum().float(),
            ratio=counted.sum(),
            ratio_sq=counted.square().sum(),
        )
    return loss, mask.sum().float(), metrics


def _value_reference(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor, ValueLossMetrics]:
    values = torch.where(mask, values, 0.0)
    old_values = torch.where(mask, old_values, 0.0)
    returns = torch.where(mask, returns, 0.0)
    error = (values - returns).square()
    took_clipped = torch.zeros_like(mask)
    if clip is not None:
        within = torch.clamp(values, old_values - clip, old_values + clip)
        clipped_error = (within - returns).square()
        took_clipped = (clipped_error > error) & mask
        error = torch.maximum(error, clipped_error)
    loss = 0.5 * torch.where(mask, error, 0.0).sum()
    return loss, mask.sum().float(), ValueLossMetrics(clipfrac=took_clipped.sum().float())


def _empty(first: Tensor, sums: int, gradient: bool) -> _Three:
    """The loss, its weight and the sums for metrics, and the gradient: empty if not wanted."""
    return (
        first.new_empty(()),
        first.new_empty(sums),
        torch.empty_like(first) if gradient else first.new_empty(0),
    )


def _policy_results(logprobs: Tensor, *others: Any) -> _Three:
    return _empty(logprobs, 5, others[-1])


def _value_results(values: Tensor, *others: Any) -> _Three:
    return _empty(values, 2, others[-1])


def _check(
    first: Tensor, second: Tensor, third: Tensor, mask: Tensor, *_others: object
) -> str | None:
    return unlike(first, mask=mask, second=second, third=third)


def _policy_call(
    operation: Callable[..., _Three], logprobs: Tensor, *others: Any
) -> tuple[Tensor, Tensor, PolicyLossMetrics]:
    wanted = logprobs.requires_grad and torch.is_grad_enabled()
    loss, sums, _ = operation(logprobs, *others, wanted)
    weight, *metrics = sums.unbind()
    return loss, weight, PolicyLossMetrics(*metrics)


def _value_call(
    operation: Callable[..., _Three], values: Tensor, *others: Any
) -> tuple[Tensor, Tensor, ValueLossMetrics]:
    wanted = values.requires_grad and torch.is_grad_enabled()
    loss, sums, _ = operation(values, *others, wanted)
    weight, clipfrac = sums.unbind()
    return loss, weight, ValueLossMetrics(clipfrac)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: _Three) -> None:
    _, sums, gradient = output
    ctx.mark_non_differentiable(sums, gradient)
    ctx.save_for_backward(gradient)
    ctx.formed = inputs[-1]


def _backward(
    ctx: Any, of_loss: Tensor, *_others: Tensor | None
) -> tuple[Tensor, None, None, None, None, None]:
    if not ctx.formed:
        raise RuntimeError("the loss was computed with gradient=False")
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this kernel's loss has no second derivative (create_graph=True): use impl='reference'"
        )
    (gradient,) = ctx.saved_tensors
    return of_loss * gradient, None, None, None, None, None


# The kernels form the gradient beside the loss, where it is wanted; the backward scales it.
POLICY = TorchOp(
    "(Tensor logprobs, Tensor old_logprobs, Tensor advantages, Tensor mask, float clip,"
    " bool gradient) -> (Tensor, Tensor, Tensor)",
    _policy_results,
    _check,
    _policy_call,
    _keep,
    _backward,
)
VALUE = TorchOp(
    "(Tensor values, Tensor old_values, Tensor returns, Tensor mask, float? clip,"
    " bool gradient) -> (Tensor, Tensor, Tensor)",
    _value_results,
    _check,
    _value_call,
    _keep,
    _backward,
)


def refused(
    first: Tensor, second: Tensor, third: Tensor, mask: Tensor, clip: float | None
) -> str | None:
    """Why the kernels do not take these tensors, wherever they are, or None."""
    if torch.is_grad_enabled() and (second.requires_grad or third.requires_grad):
        return "its gradient goes to the first tensor alone, and another requires one"
    return _check(first, second, third, mask)


def _probe(device: torch.device) -> tuple[object, ...]:
    zeros = torch.zeros(2, 4, device=device)
    return zeros, zeros, zeros, torch.ones(2, 4, dtype=torch.bool, device=device), 0.2


def _triton_supports(
    first: Tensor, second: Tensor, third: Tensor, mask: Tensor, clip: float | None
) -> str | None:
    refusal = triton.refuse(first, second, third, gradient=True)
    return refusal or refused(first, second, third, mask, clip)


registry.define("ppo_policy_loss", _policy_reference, _probe)
registry.define("ppo_value_loss", _value_reference, _probe)
for _op, _operation, _kernel in (
    ("ppo_policy_loss", POLICY, "ppo_loss:policy"),
    ("ppo_value_loss", VALUE, "ppo_loss:value"),
):
    _function = _operation.define(f"triton_{_op}", triton.launcher(_kernel))
    triton.register(_op, _function, _triton_supports)
