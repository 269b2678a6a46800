"""Masked whitening."""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import as_floats, finite, same_shape, tensors
from fairlead_kernels._torch_op import TorchOp, unlike
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "whiten"]


def whiten(
    x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8, impl: str = "auto"
) -> Tensor:
    """`(x - mean) * rsqrt(var + eps)` with the moments of the masked-in positions.

    The variance is biased. openai/lm-human-preferences, `utils/core.py`; fidelity item 19 for
    advantages and item 18 for rewards, whose mean is kept. A NaN or an infinity at a masked-in
    position makes every masked-in position NaN. The result is the same in every bit from run to
    run, whatever the number of threads; the reference's own follows torch's sums. Only the
    reference has a gradient.

    Args:
        x: Any shape, floating.
        mask: The shape of `x`, boolean, True where a position counts. Others have no influence.
        shift_mean: False adds the mean back.
        eps: Added to the variance.
        impl: An implementation's name, or `auto`.

    Returns:
        The shape of `x`, float32, zero where the mask is False; all zeros for an empty mask.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: Shapes, devices or dtypes that are not the above, a negative eps.
        KernelError: `impl` cannot run on these inputs.
    """
    tensors("whiten", x=x, mask=mask)
    same_shape("whiten", x, mask=mask)
    finite("whiten", eps=eps)
    if eps < 0:
        raise ValueError(f"whiten: eps must not be negative, got {eps}")
    result: Tensor = registry.call("whiten", impl, as_floats(x), mask.contiguous(), shift_mean, eps)
    return result


def _reference(x: Tensor, mask: Tensor, shift_mean: bool, eps: float) -> Tensor:
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, x, 0.0).sum() / count
    centred = torch.where(mask, x - mean, 0.0)
    # A mean far from zero is rounded to its own ulp: what that left behind is taken off as well.
    rest = centred.sum() / count
    mean, centred = mean + rest, torch.where(mask, centred - rest, 0.0)
    variance = centred.square().sum() / count
    result = centred * torch.rsqrt(variance + eps)
    # Where the moments are NaN a product with 0 is too: positions outside are made zero last.
    return torch.where(mask, result if shift_mean else result + mean, 0.0)


def _results(x: Tensor, *_others: object) -> Tensor:
    return torch.empty_like(x)


def _check(x: Tensor, mask: Tensor, *_others: object) -> str | None:
    return unlike(x, mask=mask)


OPERATION = TorchOp(
    "(Tensor x, Tensor mask, bool shift_mean, float eps) -> Tensor", _results, _check
)


def _probe(device: torch.device) -> tuple[object, ...]:
    mask = torch.ones(2, 4, dtype=torch.bool, device=device)
    return torch.zeros(2, 4, device=device), mask, True, 1e-8


def _triton_supports(x: Tensor, *_others: object) -> str | None:
    return triton.refuse(x)


registry.define("whiten", _reference, _probe)
_TRITON = OPERATION.define("triton_whiten", triton.launcher("whiten:whiten"))
triton.register("whiten", _TRITON, _triton_supports)
