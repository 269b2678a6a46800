"""Philox4x32-10: random numbers that are a function of a key, not of what was drawn before.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC'11), and Random123's
`philox.h`, whose published vectors the tests hold. Integers below 2^32 are held in int64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairlead_kernels import triton
from fairlead_kernels._checks import shape_error, tensors, values_can_be_read
from fairlead_kernels._torch_op import TorchOp
from fairlead_kernels.dispatch import registry

__all__ = ["OPERATION", "philox4x32", "philox_uniform"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _multiply(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, without leaving int64's positive range."""
    low = x * (factor & 0xFFFF)
    middle = x * (factor >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on each counter.

    Args:
        counter: Four int64 tensors of one shape, each element in [0, 2^32).
        key: Two integers in [0, 2^32).

    Returns:
        Four int64 tensors of that shape, each element in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def philox_uniform(
    seed: int, iteration: int, sequence: Tensor, position: Tensor, impl: str = "auto"
) -> Tensor:
    """One uniform number in [0, 1) for each (seed, iteration, sequence, position).

    The same key gives the same number in any batch, order or process (fidelity item 14). The layout
    that every implementation keeps, in 32-bit words, least significant word first:

    - key: `[seed & 0xFFFFFFFF, seed >> 32]`
    - counter: `[position, sequence & 0xFFFFFFFF, sequence >> 32, iteration]`
    - result, from output words x0 and x1: `((x0 << 21) | (x1 >> 11)) * 2^-53`: 53 bits, exact in
      float64, at most 1 - 2^-53. Words x2 and x3 are not used.

    Args:
        seed: In [0, 2^64).
        iteration: In [0, 2^32).
        sequence: `[B]`, int64, the global sequence index, not negative.
        position: `[B]`, int64, the position in the response, in [0, 2^32).
        impl: An implementation's name, or `auto`.

    Returns:
        `[B]`, float64.

    Raises:
        TypeError: What should be a tensor is something else.
        ValueError: A shape or dtype that is not the above, a seed or iteration out of range, or,
            on the CPU, a sequence or position out of range (elsewhere that would cost a
            synchronisation: their low bits are used).
        KernelError: `impl` cannot run on these inputs.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"philox_uniform: seed must be in [0, 2^64), got {seed}")
    if not 0 <= iteration < 1 << 32:
        raise ValueError(f"philox_uniform: iteration must be in [0, 2^32), got {iteration}")
    tensors("philox_uniform", sequence=sequence, position=position)
    if sequence.dim() != 1 or sequence.dtype != torch.int64:
        raise shape_error("philox_uniform", "sequence must be int64 [B]", sequence)
    if (
        position.shape != sequence.shape
        or position.dtype != torch.int64
        or position.device != sequence.device
    ):
        raise shape_error("philox_uniform", f"position must be int64 [{len(sequence)}]", position)
    _check_in_range(sequence, position)
    result: Tensor = registry.call(
        "philox_uniform", impl, seed, iteration, sequence.contiguous(), position.contiguous()
    )
    return result


def _check_in_range(sequence: Tensor, position: Tensor) -> None:
    if sequence.device.type != "cpu" or not values_can_be_read():
        return
    if bool(((sequence < 0) | (position < 0) | (position > _MASK)).any()):
        raise ValueError("philox_uniform: sequence must be >= 0 and position in [0, 2^32)")


def _reference(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    counter = (
        position & _MASK,
        sequence & _MASK,
        (sequence >> 32) & _MASK,
        torch.full_like(sequence, iteration),
    )
    x0, x1, _, _ = philox4x32(counter, (seed & _MASK, seed >> 32))
    return ((x0 << 21) | (x1 >> 11)).double() * 2.0**-53


def _results(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(sequence, dtype=torch.float64)


def _check(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> str | None:
    if not 0 <= iteration < 1 << 32:
        return f"iteration must be in [0, 2^32), got {iteration}"
    for name, tensor in (("sequence", sequence), ("position", position)):
        if tensor.dim() != 1 or tensor.dtype != torch.int64 or not tensor.is_contiguous():
            return f"{name} must be contiguous int64 [B], got {tuple(tensor.shape)} {tensor.dtype}"
    if position.shape != sequence.shape or position.device != sequence.device:
        return "sequence and position must have one length and be on one device"
    return None


def _call(
    operation: Callable[..., Tensor], seed: int, iteration: int, sequence: Tensor, position: Tensor
) -> Tensor:
    # A torch operation takes an int64: the seed with the same bits.
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return operation(signed, iteration, sequence, position)


# SymInt: torch.compile would compile an int anew for every iteration.
OPERATION = TorchOp(
    "(SymInt seed, SymInt iteration, Tensor sequence, Tensor position) -> Tensor",
    _results,
    _check,
    _call,
)


def _probe(device: torch.device) -> tuple[object, ...]:
    index = torch.arange(4, device=device)
    return 0, 0, index, index


registry.define("philox_uniform", _reference, _probe)


def _triton_supports(seed: int, iteration: int, sequence: Tensor, position: Tensor) -> str | None:
    return triton.runs_on(sequence.device)


_TRITON = OPERATION.define("triton_philox_uniform", triton.launcher("philox:philox_uniform"))
triton.register("philox_uniform", _TRITON, _triton_supports)
