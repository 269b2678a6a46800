"""Torch operations: what is written once of each, whatever the language of its kernel.

A kernel in C++, CUDA or Triton is launched by a torch operation of its own. Schema, fake kernel,
gradient and the last check before the launch are those of the `TorchOp` beside the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels.dispatch import OWN

__all__ = ["TorchOp", "define", "differentiate", "launch_of", "library", "unlike"]

# A library of its own rather than torch.library.custom_op: the same operation to torch.compile and
# opcheck, without that wrapper's cost a call. (torch leaves these methods untyped.)
library = torch.library.Library(OWN, "DEF")

_LAUNCHES: dict[str, tuple[Callable[..., str | None], Callable[..., Any]]] = {}


def launch_of(operation: Any, args: Sequence[Any]) -> Callable[..., Any] | None:
    """What one of this package's torch operations does once it has checked its arguments.

    For a caller on the CPU, without gradients, that repeats a call with tensors that differ from
    these in their content and in sizes that nothing was compared with.

    Args:
        operation: A `torch.ops` overload, or anything else.
        args: Its arguments, checked here; tensors may be without content.

    Returns:
        None for another's operation, and where the check fails.
    """
    if not isinstance(operation, torch._ops.OpOverload) or str(operation) not in _LAUNCHES:
        return None
    check, launch = _LAUNCHES[str(operation)]
    return launch if check(*args) is None else None


def define(schema: str, launch: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Adds a torch operation.

    Args:
        schema: The operation's name, arguments and results, as torch.library writes them.
        launch: Runs it, on the CPU or on CUDA.
        fake: Makes results of the right shape and dtype and no more, for torch.compile.
    """
    name = library.define(schema, tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))
    for key in ("CPU", "CUDA"):
        library.impl(name, launch, key)
    torch.library.register_fake(f"{OWN}::{name}", fake, lib=library)


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Gives a torch operation its gradient, and that gradient, `NAME_backward`, an error.

    Without the error torch would take the second derivative for zero.
    """
    torch.library.register_autograd(
        f"{OWN}::{name}", backward, setup_context=setup_context, lib=library
    )

    def no_second(_ctx: Any, *_grads: Tensor) -> None:
        raise RuntimeError(f"{name} has no second derivative; impl='reference' has one")

    torch.library.register_autograd(f"{OWN}::{name}_backward", no_second, lib=library)


def _plain(operation: Callable[..., Any], *args: Any) -> Any:
    return operation(*args)


@dataclass(frozen=True)
class TorchOp:
    """A torch operation but for its name and its kernel.

    Attributes:
        schema: Arguments and results, as torch.library writes them.
        results: Makes the results from the arguments, not filled in: all that torch.compile
            needs, and a kernel's to fill.
        check: Why these arguments are not what a kernel reads, or None. The torch operation can
            be called by anyone: it asks before every launch.
        call: Calls the torch operation, given first, with the arguments of the implementation.
        setup_context: Keeps what `backward` needs, as `torch.library.register_autograd` takes it.
        backward: The gradient; without one the operation has none.
    """

    schema: str
    results: Callable[..., Any]
    check: Callable[..., str | None]
    call: Callable[..., Any] = _plain
    setup_context: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None

    def define(self, name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
        """Adds the torch operation `NAME`, which launches a kernel.

        Args:
            name: Unlike any other's.
            launch: Runs the kernel on the arguments of the schema, which were checked.

        Returns:
            The implementation on it, as `register_implementation` takes it.
        """

        def checked(*args: Any) -> Any:
            problem = self.check(*args)
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
            return launch(*args)

        define(f"{name}{self.schema}", checked, self.results)
        _LAUNCHES[f"{OWN}.{name}.default"] = (self.check, launch)
        if self.backward is not None:
            torch.library.register_autograd(
                f"{OWN}::{name}", self.backward, setup_context=self.setup_context, lib=library
            )
        return partial(self.call, getattr(torch.ops.fairlead_kernels, name))


def unlike(first: Tensor, *, mask: Tensor, **others: Tensor | None) -> str | None:
    """Why these are not contiguous tensors on one device, or None.

    Args:
        first: float32; the others have its shape.
        mask: boolean.
        **others: float32; None for one that was left out.
    """
    shape, device = first.shape, first.device  # each reading costs as much as a comparison
    for name, one in {"the first tensor": first, "mask": mask, **others}.items():
        if one is None:
            continue
        dtype = torch.bool if name == "mask" else torch.float32
        if one.dtype != dtype or one.shape != shape or one.device != device:
            return (
                f"{name} must be {dtype} {tuple(first.shape)} on {first.device}, "
                f"got {one.dtype} {tuple(one.shape)} on {one.device}"
            )
        if not one.is_contiguous():
            return f"{name} must be contiguous"
    return None
