"""Triton kernels, a module an operation; imported, and triton with them, at the first launch.

The torch operations that launch them are there from the start: torch.compile needs no call before.

On the CPU they run in triton's interpreter, where TRITON_INTERPRET=1 was set before the start: that
shows that they are right, not how fast they are, and `auto` takes anything else before them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels.dispatch import OWN, registry

__all__ = ["INTERPRETED", "launcher", "refuse", "register", "runs_on"]

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether triton interprets its kernels; it reads the variable once, as this does."""

_PRIORITY = -1 if INTERPRETED else 90


def _available() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "torch sees no CUDA device; TRITON_INTERPRET=1 runs it on the CPU, slowly, as a test"


def runs_on(device: torch.device) -> str | None:
    """Why a triton kernel does not run on tensors of a device, or None."""
    wanted = "cpu" if INTERPRETED else "cuda"
    if device.type == wanted:
        return None
    return f"it runs on {wanted} tensors here, these are on {device}"


def refuse(*tensors: Tensor | None, gradient: bool = False) -> str | None:
    """Why a triton kernel does not take these tensors, or None.

    Args:
        *tensors: Its inputs; None for one that was left out.
        gradient: Whether it has one.
    """
    given = [one for one in tensors if one is not None]
    for one in given:
        reason = runs_on(one.device)
        if reason is not None:
            return reason
    if not gradient and torch.is_grad_enabled() and any(one.requires_grad for one in given):
        return "it has no gradient, and an input requires one"
    return None


def launcher(kernel: str) -> Callable[..., Any]:
    """The function `NAME` of `fairlead_kernels.triton.MODULE`, imported when it first runs.

    Args:
        kernel: `MODULE:NAME`. It is called on the device of its first tensor.
    """
    module, _, name = kernel.partition(":")
    found: list[Callable[..., Any]] = []

    def launch(*args: Any) -> Any:
        if not found:
            loaded = importlib.import_module(f"fairlead_kernels.triton.{module}")
            found.append(getattr(loaded, name))
        place = next(one.device for one in args if isinstance(one, Tensor))
        if place.type != "cuda" or place.index == torch.cuda.current_device():
            return found[0](*args)
        with torch.cuda.device(place):  # triton launches on the current device
            return found[0](*args)

    return launch


def register(op: str, function: Callable[..., Any], supports: Callable[..., str | None]) -> None:
    """Registers an implementation in triton.

    Args:
        op: The operation.
        function: As `register_implementation` takes it: on a torch operation over a `launcher`.
        supports: As `register_implementation` takes it.
    """
    registry.register(
        op,
        "triton",
        function,
        available=_available,
        supports=supports,
        priority=_PRIORITY,
        owner=OWN,
    )
