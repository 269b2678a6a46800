"""The native module: whether it is there, and what its operations share.

`fairlead_kernels._native` takes addresses and no tensors, so that one build works with every torch.
The modules beside this one, one an operation, check what it is given before an address leaves
Python, and make torch operations of its kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fairlead_kernels.dispatch import OWN, registry

__all__ = [
    "Launch",
    "NativeStatus",
    "Rows",
    "call",
    "loaded",
    "native_status",
    "noted_launches",
    "refuse",
    "register",
]

_MODULE = "fairlead_kernels._native"
_PRIORITY = 100


@dataclass(frozen=True)
class NativeStatus:
    """What there is of the native module.

    Attributes:
        available: Whether it was imported.
        parts: Of `cpu` and `cuda`, those that were built in.
        compiler: The compilers that built it; empty without it.
        instruction_set: What the CPU kernels use on this processor; empty without the module.
        cuda_architectures: What the CUDA kernels were compiled for; empty without that part.
        reason: Why the module, or its CUDA part, is missing and what to do; empty otherwise.
    """

    available: bool
    parts: tuple[str, ...] = ()
    compiler: str = ""
    instruction_set: str = ""
    cuda_architectures: str = ""
    reason: str = ""


def _import() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module(_MODULE), ""
    except ImportError as error:
        return None, str(error)


def _read_report() -> str:
    # setup.py leaves the reason here when it could not build the module.
    report = Path(__file__).parents[1] / "_native_build.txt"
    try:
        return report.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


# Not at the first call: torch.compile can trace neither an import nor the reading of a file.
_LOADED = _import()
_REPORT = _read_report()


def _load() -> tuple[ModuleType | None, str]:
    """The native module, or None and the error."""
    return _LOADED


def loaded() -> ModuleType | None:
    """The native module, or None where it cannot be imported."""
    return _load()[0]


def _why_missing(error: str) -> str:
    """Why there is no module, and what to do."""
    why = _REPORT or f"{_MODULE} cannot be imported: {error}."
    advice = (
        "Install Fairlead again (pip install -e . in a checkout) where a C++ compiler is; "
        "FAIRLEAD_NATIVE=require shows the whole error."
    )
    return f"{why} {advice}"


def _why_no_cuda() -> str:
    """Why a module that is there has no CUDA part."""
    return _REPORT or (
        "The CUDA part was not built: nvcc was not found, or FAIRLEAD_CUDA=0 was set."
    )


def native_status() -> NativeStatus:
    """Whether the native module is here, with which parts, or why not and what to do."""
    module, error = _load()
    if module is None:
        return NativeStatus(available=False, reason=_why_missing(error))
    has_cuda = hasattr(module, "gae_cuda")
    return NativeStatus(
        available=True,
        parts=("cpu", "cuda") if has_cuda else ("cpu",),
        compiler=module.compiler,
        instruction_set=module.cpu_instruction_set(),
        cuda_architectures=module.cuda_architectures,
        reason="" if has_cuda else _why_no_cuda(),
    )


def _cpu_available() -> str | None:
    module, error = _load()
    return None if module is not None else f"no native module: {_why_missing(error)}"


def _cuda_available() -> str | None:
    module, error = _load()
    # Not by native_status(): torch.compile cannot trace what that asks the module.
    if not hasattr(module, "gae_cuda"):
        why = _why_missing(error) if module is None else _why_no_cuda()
        return f"no native CUDA kernels: {why}"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


class Rows(int):
    """A number of rows in a launch's arguments, each computed by itself: fewer can be asked for."""


@dataclass(frozen=True)
class Launch:
    """A kernel on the CPU as it was called.

    Attributes:
        function: Of the native module.
        args: Its arguments, with tensors for addresses and None for no tensor.
    """

    function: Callable[..., None]
    args: tuple[Any, ...]

    def bound(self, args: Sequence[Any], rows: int) -> Callable[[int], Callable[[], None]]:
        """The same call on the memory that tensors have now, again and again.

        Args:
            args: In place of the launch's own; tensors like those, which outlive what is returned.
            rows: How many it was of; 0 for one that is to be repeated whole.

        Returns:
            From a number of rows, the first ones, to the call for those alone; where `Rows` among
            its arguments are others than `rows`, it is of all of them.
        """
        # Not the launch itself, which has the tensors that it was made with.
        function, plain = self.function, [*_addresses(args), torch.get_num_threads()]

        def of(fewer: int) -> Callable[[], None]:
            return partial(function, *(_fewer(one, rows, fewer) for one in plain))

        return of


def _fewer(arg: Any, rows: int, fewer: int) -> Any:
    if isinstance(arg, tuple):
        return tuple(_fewer(one, rows, fewer) for one in arg)
    return fewer if isinstance(arg, Rows) and arg == rows else arg


_NOTED: ContextVar[list[Launch] | None] = ContextVar("noted", default=None)


@contextmanager
def noted_launches() -> Iterator[list[Launch]]:
    """Note the kernels on the CPU that are called within it, besides calling them."""
    noted: list[Launch] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def _addresses(args: Sequence[Any]) -> list[Any]:
    return [
        arg.data_ptr() if isinstance(arg, Tensor) else 0 if arg is None else arg for arg in args
    ]


def call(kernel: str, *args: Any) -> None:
    """Runs a kernel of the native module where its first tensor is.

    Args:
        kernel: `KERNEL_cpu` or `KERNEL_cuda` is called: with torch's number of threads on the CPU,
            with the device and the current stream on CUDA.
        *args: Its arguments; of a tensor the address is handed over, of None 0. They were checked.

    Raises:
        RuntimeError: The module cannot be imported, or CUDA reports an error.
    """
    module, error = _load()
    if module is None:
        raise RuntimeError(error)
    first = next(arg for arg in args if isinstance(arg, Tensor))
    if first.is_cpu:
        function = getattr(module, f"{kernel}_cpu")
        function(*_addresses(args), torch.get_num_threads())
        noted = _NOTED.get()
        if noted is not None:
            noted.append(Launch(function, args))
        return
    device = first.device
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        getattr(module, f"{kernel}_cuda")(*_addresses(args), device.index, stream)


def refuse(device: str, *tensors: Tensor | None, gradient: bool = False) -> str | None:
    """Why a kernel does not take these tensors, or None.

    Args:
        device: The device type it runs on.
        *tensors: Its inputs; None for one that was left out.
        gradient: Whether it has one.
    """
    given = [one for one in tensors if one is not None]
    for one in given:
        if one.device.type != device:
            return f"it runs on {device} tensors, these are on {one.device}"
    if not gradient and torch.is_grad_enabled() and any(one.requires_grad for one in given):
        return "it has no gradient, and an input requires one"
    return None


def register(
    op: str,
    device: str,
    function: Callable[..., Any],
    supports: Callable[..., str | None],
) -> None:
    """Registers an implementation in native code: `cpp` on `cpu`, `cuda` on `cuda`.

    Args:
        op: The operation.
        device: The device type it runs on.
        function: As `register_implementation` takes it.
        supports: As `register_implementation` takes it, with the device type before the arguments.
    """
    registry.register(
        op,
        "cpp" if device == "cpu" else "cuda",
        function,
        available=_cpu_available if device == "cpu" else _cuda_available,
        supports=lambda *args, **kwargs: supports(device, *args, **kwargs),
        priority=_PRIORITY,
        owner=OWN,
    )
