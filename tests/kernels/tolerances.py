"""Every tolerance of the kernel tests, and the rule they come from.

A kernel is right when its error against float64 is at most that of plain torch in the same dtype,
twice over, or 4 ulp, whichever is larger (DESIGN, 'Kernels'). What is exact is tested with `==`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead_kernels.bench.judge import PLAIN_FACTOR, ULPS

# Vocabulary gradients sum to 0 in exact arithmetic. In float32 each of V terms of size at most 1 is
# rounded once, and the errors add up like a random walk at worst a few ulp of 1 wide.
GRADIENT_SUM = 1e-5

# What cutting the vocabulary and the batch into chunks may change in linear_logprobs: float32
# products added up in another order, in ulp of the sizes added up. In gradients that is times the
# size of a logit, since what is off in a logit is in proportion off in a probability.
CHUNK_ULPS = 4.0

# The level under which a chi-squared test of fixed draws is called a failure.
CHI_SQUARED_LEVEL = 1e-3

# Two implementations of the sampler may draw two neighbours where u lies so close to the border
# between them: the float32 roundings of some 1e3 to 1e5 weights, added up. At most so many draws of
# 2,000 may differ in that way: the chance of one is about 1e-4 a draw at the largest vocabulary.
NEAR_BOUNDARY = 1e-7
DISAGREEMENTS = 2


def ulp(x: Tensor) -> Tensor:
    """The float32 spacing at |x|, as float64."""
    x32 = x.abs().float()
    return torch.nextafter(x32, torch.full_like(x32, float("inf"))).double() - x32.double()


def assert_within_error_rule(
    actual: Tensor, plain: Tensor, exact: Tensor, terms: Tensor | None = None
) -> None:
    """The error rule. `plain` is torch's own float32 result, `exact` the float64 one.

    An ulp is one of the exact result or, where terms of both signs cancel (a gradient, a sum of
    losses), one of `terms`, the size of what was added up.
    """
    assert actual.shape == exact.shape
    assert exact.dtype == torch.float64
    error = (actual.double() - exact).abs()
    worst_plain = (plain.double() - exact).abs().max() if plain.numel() else torch.tensor(0.0)
    allowed = torch.maximum(
        PLAIN_FACTOR * worst_plain, ULPS * ulp(exact if terms is None else terms)
    )
    assert bool((error <= allowed).all()), (
        f"error {error.max():.3e}, plain torch {worst_plain:.3e}, worst excess "
        f"{(error - allowed).max():.3e}"
    )
