"""`philox_uniform` in Triton, which brings the generator."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["philox_uniform"]

_BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator]
def _philox_kernel(  # type: ignore[no-untyped-def]
    seed_low, seed_high, iteration, sequence, position, uniform, count, block: tl.constexpr
):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    number = tl.load(sequence + at, inside, 0)
    c0 = tl.load(position + at, inside, 0).to(tl.uint32)
    c1 = number.to(tl.uint32)
    c2 = (number >> 32).to(tl.uint32)
    # An argument of 1 comes as a constant, not as a tensor.
    c3 = tl.full([block], 0, tl.uint32) + tl.to_tensor(iteration).to(tl.uint32)
    k0, k1 = tl.to_tensor(seed_low).to(tl.uint32), tl.to_tensor(seed_high).to(tl.uint32)
    x0, x1, _, _ = tl.philox_impl(c0, c1, c2, c3, k0, k1)
    bits = (x0.to(tl.int64) << 21) | (x1.to(tl.int64) >> 11)
    tl.store(uniform + at, bits.to(tl.float64) * 1.1102230246251565e-16, inside)


def philox_uniform(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    """See `fairlead_kernels.philox_uniform`."""
    uniform = torch.empty_like(sequence, dtype=torch.float64)
    if len(sequence) > 0:
        _philox_kernel[(triton.cdiv(len(sequence), _BLOCK),)](
            seed & 0xFFFFFFFF,
            (seed >> 32) & 0xFFFFFFFF,  # the seed is signed, and so is a shift of it
            iteration,
            sequence,
            position,
            uniform,
            len(sequence),
            block=_BLOCK,
        )
    return uniform
