"""`ppo_policy_loss` and `ppo_value_loss` in native code."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import native
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.ppo_loss import POLICY, VALUE, refused

__all__: list[str] = []

# kLossBlock and kLossSums of csrc/include/fairlead/ppo_loss.h.
_BLOCK = 16384
_SUMS = 6
_Three = tuple[Tensor, Tensor, Tensor]


def _run(
    op: str,
    operation: TorchOp,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    gradient: bool,
    *clip: object,
) -> _Three:
    first = inputs[0]
    if first.device.type != "cpu":
        raise ValueError(f"{op}: it runs on cpu tensors, these are on {first.device}")
    loss, weight_and_sums, slope = operation.results(first, gradient)
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
    return _run("ppo_policy_loss", POLICY, inputs, gradient, clip)


def _value_launch(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None,
    gradient: bool,
) -> _Three:
    inputs = values, old_values, returns, mask
    return _run("ppo_value_loss", VALUE, inputs, gradient, clip or 0.0, clip is not None)


def _supports(
    device: str, first: Tensor, second: Tensor, third: Tensor, mask: Tensor, clip: float | None
) -> str | None:
    refusal = native.refuse(device, first, second, third, gradient=True)
    return refusal or refused(first, second, third, mask, clip)


_policy = POLICY.define("ppo_policy_loss", _policy_launch)
_value = VALUE.define("ppo_value_loss", _value_launch)
native.register("ppo_policy_loss", "cpu", _policy, _supports)
native.register("ppo_value_loss", "cpu", _value, _supports)
