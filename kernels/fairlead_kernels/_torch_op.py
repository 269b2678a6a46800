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
from torch import Tensor, nn
from torch.autograd import forward_ad

from fairlead_kernels.dispatch import OWN

__all__ = ["Operation", "TorchOp", "define", "launch_of", "library", "unlike"]

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


_PLAIN = {"float": float, "int": int, "bool": bool}
"""What torch makes of a number, by the type in the schema."""


class Operation:
    """A torch operation, called as `torch.ops` calls it or straight.

    The dispatcher goes through Python several times a call: with a gradient that takes longer than
    many a kernel. It is left out where nothing but autograd would have seen the call.
    """

    def __init__(self, name: str, launch: Callable[..., Any]) -> None:
        self._name = name
        self._launch = launch
        self._through_torch = getattr(getattr(torch.ops, OWN), name)
        arguments = self._through_torch.default._schema.arguments
        kinds = [str(one.type).removeprefix("Optional[").rstrip("]") for one in arguments]
        self._numbers = [
            (i, (_PLAIN[kind], type(None))) for i, kind in enumerate(kinds) if kind in _PLAIN
        ]
        self._function: Any = None  # the torch.autograd.Function, of one that has a gradient

    def __call__(self, *args: Any) -> Any:
        """Runs it."""
        # Torch makes a float of what is meant as one, and refuses what is not: to Triton a whole
        # number is something else.
        if not _unobserved() or not all(type(args[i]) in kinds for i, kinds in self._numbers):
            return self._through_torch(*args)
        gradient = False
        for one in args:
            if isinstance(one, Tensor):
                if not _is_plain(one):
                    return self._through_torch(*args)
                gradient = gradient or one.requires_grad
        if not gradient or not torch.is_grad_enabled():
            return self._launch(*args)
        if self._function is None:
            return self._through_torch(*args)
        return self._function.apply(*args)

    def differentiate(
        self, backward: Callable[..., Any], setup_context: Callable[..., None] | None
    ) -> None:
        """Gives it its gradient; both as `torch.library.register_autograd` takes them."""
        torch.library.register_autograd(
            f"{OWN}::{self._name}", backward, setup_context=setup_context, lib=library
        )
        launch = self._launch

        def forward(ctx: Any, *args: Any) -> Any:
            results = launch(*args)
            if setup_context is not None:
                setup_context(ctx, args, results)
            return results

        def plain_backward(ctx: Any, *grads: Any) -> Any:  # a compiler takes no partial
            return backward(ctx, *grads)

        methods = {"forward": staticmethod(forward), "backward": staticmethod(plain_backward)}
        self._function = type(self._name, (torch.autograd.Function,), methods)

    def refuse_second_derivative(self, of: str) -> None:
        """Gives a gradient an error for its own: torch would take that for zero.

        Args:
            of: The operation whose gradient this is.
        """

        def backward(_ctx: Any, *_grads: Tensor) -> None:
            raise RuntimeError(f"{of} has no second derivative; impl='reference' has one")

        self.differentiate(backward, None)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are those in its memory."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not tensor.is_meta
        and not tensor.is_neg()  # part of a conjugate: they are stored with the other sign
        # Of gradients in a batch, by a vmap that is older than torch.func.
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _unobserved() -> bool:
    """Whether no compiler, mode, transform or profiler is to see what is called."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._autograd._profiler_enabled()
    )


def define(schema: str, launch: Callable[..., Any], fake: Callable[..., Any]) -> Operation:
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
    return Operation(name, launch)


def _plain(operation: Operation, *args: Any) -> Any:
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
        call: Calls the operation, given first, with the arguments of the implementation.
        setup_context: Keeps what `backward` needs, as `torch.library.register_autograd` takes it.
        backward: The gradient; without one the operation has none. Where there is `gradient` it is
            given that operation first.
        gradient: The operation that computes the gradient, where a kernel does.
    """

    schema: str
    results: Callable[..., Any]
    check: Callable[..., str | None]
    call: Callable[..., Any] = _plain
    setup_context: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None
    gradient: TorchOp | None = None

    def define(
        self,
        name: str,
        launch: Callable[..., Any],
        launch_gradient: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        """Adds the torch operation `NAME`, which launches a kernel, and its `NAME_backward`.

        Args:
            name: Unlike any other's.
            launch: Runs the kernel on the arguments of the schema, which were checked.
            launch_gradient: The same of `gradient`, where there is one.

        Returns:
            The implementation on it, as `register_implementation` takes it.
        """
        if (launch_gradient is None) != (self.gradient is None):
            problem = "is missing" if self.gradient else "was given, and it has none"
            raise TypeError(f"{name}: the kernel of its gradient {problem}")
        operation = self._added(name, launch)
        backward = self.backward
        if backward is not None and self.gradient is not None and launch_gradient is not None:
            gradient = self.gradient._added(f"{name}_backward", launch_gradient)
            gradient.refuse_second_derivative(of=name)
            backward = partial(backward, gradient)
        if backward is not None:
            operation.differentiate(backward, self.setup_context)
        return partial(self.call, operation)

    def _added(self, name: str, launch: Callable[..., Any]) -> Operation:
        def checked(*args: Any) -> Any:
            problem = self.check(*args)
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
            return launch(*args)

        _LAUNCHES[f"{OWN}.{name}.default"] = (self.check, launch)
        return define(f"{name}{self.schema}", checked, self.results)


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
