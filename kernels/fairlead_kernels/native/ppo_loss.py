"""`ppo_policy_loss` and `ppo_value_loss` in native code.

The kernel forms the gradient beside the loss, where it is wanted; the backward scales it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels.native.layout import unlike
from fairlead_kernels.ppo_loss import PolicyLossMetrics, ValueLossMetrics

__all__: list[str] = []

# kLossBlock and kLossSums of csrc/include/fairlead/ppo_loss.h.
_BLOCK = 16384
_SUMS = 6
_Three = tuple[Tensor, Tensor, Tensor]


def _results(first: Tensor, sums: int, gradient: bool) -> _Three:
    """The loss, its weight and the sums for metrics, and the gradient: empty if not wanted."""
    return (
        first.new_empty(()),
        first.new_empty(sums),
        torch.empty_like(first) if gradient else first.new_empty(0),
    )


def _run(
    op: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor], sums: int, gradient: bool, *clip: object
) -> _Three:
    first, second, third, mask = inputs
    if first.device.type != "cpu":
        raise ValueError(f"{op}: it runs on cpu tensors, these are on {first.device}")
    problem = unlike(first, mask=mask, second=second, third=third)
    if problem is not None:
        raise ValueError(f"{op}: {problem}")
    loss, weight_and_sums, slope = _results(first, sums, gradient)
    count = first.numel()
    workspace = torch.empty(-(-count // _BLOCK), _SUMS, dtype=torch.float64)
    wanted = slope if gradient else None
    native.call(op, *inputs, loss, weight_and_sums, wanted, workspace, count, *clip)
    return loss, weight_and_sums, slope


def _policy_launch(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    gradient: bool,
) -> _Three:
    inputs = logprobs, old_logprobs, advantages, mask
    return _run("ppo_policy_loss", inputs, 5, gradient, clip)


def _value_launch(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None,
    gradient: bool,
) -> _Three:
    inputs = values, old_values, returns, mask
    return _run("ppo_value_loss", inputs, 2, gradient, clip or 0.0, clip is not None)


def _policy_fake(logprobs: Tensor, *others: Any) -> _Three:
    return _results(logprobs, 5, others[-1])


def _value_fake(values: Tensor, *others: Any) -> _Three:
    return _results(values, 2, others[-1])


_INPUTS = {"policy": "logprobs, Tensor old_logprobs, Tensor advantages, Tensor mask, float clip"}
_INPUTS["value"] = "values, Tensor old_values, Tensor returns, Tensor mask, float? clip"


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


for _name, _launch, _fake in (
    ("policy", _policy_launch, _policy_fake),
    ("value", _value_launch, _value_fake),
):
    native.define(
        f"ppo_{_name}_loss(Tensor {_INPUTS[_name]}, bool gradient) -> (Tensor, Tensor, Tensor)",
        _launch,
        _fake,
    )
    torch.library.register_autograd(
        f"fairlead_kernels::ppo_{_name}_loss", _backward, setup_context=_keep, lib=native.library
    )


def _supports(
    device: str, first: Tensor, second: Tensor, third: Tensor, mask: Tensor, clip: float | None
) -> str | None:
    refusal = native.refuse(device, first, second, third, gradient=True)
    if (
        refusal is None
        and torch.is_grad_enabled()
        and (second.requires_grad or third.requires_grad)
    ):
        return "its gradient goes to the first tensor alone, and another requires one"
    return refusal or unlike(first, mask=mask, second=second, third=third)


def _policy(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor, PolicyLossMetrics]:
    wanted = logprobs.requires_grad and torch.is_grad_enabled()
    loss, sums, _ = torch.ops.fairlead_kernels.ppo_policy_loss(
        logprobs, old_logprobs, advantages, mask, clip, wanted
    )
    weight, *metrics = sums.unbind()
    return loss, weight, PolicyLossMetrics(*metrics)


def _value(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor, ValueLossMetrics]:
    wanted = values.requires_grad and torch.is_grad_enabled()
    loss, sums, _ = torch.ops.fairlead_kernels.ppo_value_loss(
        values, old_values, returns, mask, clip, wanted
    )
    weight, clipfrac = sums.unbind()
    return loss, weight, ValueLossMetrics(clipfrac)


native.register("ppo_policy_loss", "cpu", _policy, _supports)
native.register("ppo_value_loss", "cpu", _value, _supports)
