"""exp and its relatives for triton kernels, to 2 ulp: tl.exp is coarser away from 0 on a GPU."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["exp", "exp_minus_line"]


@triton.jit
def _tail(r):  # type: ignore[no-untyped-def]
    # (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2.
    q = r * (1.0 / 40320.0) + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    return q * r + 0.5


@triton.jit
def _power_of_two(n):  # type: ignore[no-untyped-def]
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _reduced(x):  # type: ignore[no-untyped-def]
    # x = n ln 2 + r; ln 2 in two parts, n times the first is exact.
    whole = tl.floor(x * 1.44269504 + 0.5)
    return whole.to(tl.int32), x - whole * 0.693359375 + whole * 2.12194440e-4


@triton.jit
def exp(x):  # type: ignore[no-untyped-def]
    """1 at 0 in every bit, 0 at -inf; NaN stays NaN."""
    n, r = _reduced(tl.minimum(tl.maximum(x, -104.0), 104.0))
    mantissa = r * r * _tail(r) + r + 1.0
    # In two steps, since 2^n itself need not be a normal float.
    half = n >> 1
    result = mantissa * _power_of_two(half) * _power_of_two(n - half)
    return tl.where(x == x, result, x)


@triton.jit
def exp_minus_line(x):  # type: ignore[no-untyped-def]
    """exp(x) - 1 - x, never negative; csrc/cpu/kl_rewards.inl says how."""
    n, r = _reduced(tl.minimum(tl.maximum(x, -86.0), 89.0))
    half = _power_of_two(n - 1)
    result = 2.0 * (half * r * r * _tail(r) + (half * r + (half - 0.5 - 0.5 * x)))
    return tl.where(x > 89.0, float("inf") - x, result)
