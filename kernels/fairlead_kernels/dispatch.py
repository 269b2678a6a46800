"""Which implementation of an operation runs: one rule, and a listing that shows its outcome.

`impl="auto"` takes the implementation with the highest priority among those that are available here
and support the inputs; equal priorities go to the one registered first. An implementation asked for
by name runs or raises `KernelError`; nothing ever falls back in silence.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

__all__ = [
    "ImplementationRow",
    "KernelError",
    "KernelRegistry",
    "list_implementations",
    "register_implementation",
    "registry",
]

OWN = "fairlead_kernels"


class KernelError(RuntimeError):
    """An implementation was asked for, or registered, that cannot be.

    Attributes:
        refusals: By name, why each implementation that was asked for cannot run.
    """

    # Set where there are some. torch.compile shows the message of an error without an __init__.
    refusals: Mapping[str, str] = {}


@dataclass(frozen=True)
class Implementation:
    """One way to run an operation."""

    op: str
    name: str
    function: Callable[..., Any]
    available: Callable[[], str | None]
    supports: Callable[..., str | None]
    priority: int
    owner: str

    def refusal(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Why this implementation cannot run on these inputs here, or None if it can."""
        if self.owner == OWN:
            return self.available() or self.supports(*args, **kwargs)
        try:
            for ask in (self.available, partial(self.supports, *args, **kwargs)):
                answer: object = ask()
                if isinstance(answer, str) and answer:
                    return answer
                if answer is not None:
                    return (
                        f"{self.owner} says {answer!r} where it is asked for None or the reason "
                        "why it cannot run, in words"
                    )
            return None
        except Exception as error:  # a plugin's own: it must not take the others with it
            return f"asking {self.owner} whether it can run raised {type(error).__name__}: {error}"


@dataclass(frozen=True)
class ImplementationRow:
    """One line of `list_implementations`.

    Attributes:
        op: The operation.
        impl: The implementation's name.
        owner: The package that registered it.
        device: The device type that this line is about, `cpu` or `cuda`.
        available: Whether it runs there on ordinary inputs.
        reason: Why not; empty where it runs.
        auto: Whether `impl="auto"` takes it there.
    """

    op: str
    impl: str
    owner: str
    device: str
    available: bool
    reason: str
    auto: bool


def _always(*_args: Any, **_kwargs: Any) -> str | None:
    return None


class KernelRegistry:
    """The operations, and the implementations of each.

    By priority, the highest first, and in the order of their registration where that is equal.
    """

    def __init__(self) -> None:
        self._implementations: dict[str, list[Implementation]] = {}
        self._probes: dict[str, Callable[[torch.device], tuple[Any, ...]]] = {}

    def define(
        self,
        op: str,
        reference: Callable[..., Any],
        probe: Callable[[torch.device], tuple[Any, ...]],
    ) -> None:
        """Adds an operation with its plain torch reference.

        Args:
            op: The operation's name.
            reference: The specification; runs everywhere, has priority 0.
            probe: Makes ordinary, small arguments on a device, for `rows`.

        Raises:
            KernelError: The operation exists already.
        """
        if op in self._probes:
            raise KernelError(f"kernel operation '{op}' is defined twice")
        self._probes[op] = probe
        self._implementations[op] = []
        self.register(
            op,
            "reference",
            reference,
            available=_always,
            supports=_always,
            priority=0,
            owner=OWN,
        )

    def register(
        self,
        op: str,
        name: str,
        function: Callable[..., Any],
        *,
        available: Callable[[], str | None],
        supports: Callable[..., str | None],
        priority: int,
        owner: str,
    ) -> None:
        """Adds an implementation; see `register_implementation`."""
        if op not in self._implementations:
            known = ", ".join(sorted(self._implementations))
            raise KernelError(
                f"'{owner}' registers '{name}' for '{op}', which is not one of {known}"
            )
        if name == "auto":
            raise KernelError(
                f"'{owner}' registers '{name}' for '{op}': 'auto' is the selection rule"
            )
        for other in self._implementations[op]:
            if other.name == name:
                raise KernelError(
                    f"implementation '{name}' of '{op}' is registered twice: "
                    f"by '{other.owner}' and by '{owner}'"
                )
        insort(
            self._implementations[op],
            Implementation(op, name, function, available, supports, priority, owner),
            key=lambda one: -one.priority,
        )

    def operations(self) -> list[str]:
        """The operations' names, in the order of their definition."""
        return list(self._implementations)

    def probe(self, op: str, device: torch.device) -> tuple[Any, ...]:
        """Ordinary, small arguments of an operation, in the order of its public function's."""
        return self._probes[op](device)

    def select(self, op: str, impl: str, *args: Any, **kwargs: Any) -> Implementation:
        """The implementation that runs on these inputs.

        Args:
            op: A defined operation.
            impl: An implementation's name, or `auto`.
            *args: The operation's arguments.
            **kwargs: The operation's keyword arguments.

        Returns:
            The implementation.

        Raises:
            KernelError: The one asked for is unknown or cannot run, or none can.
        """
        refusals: dict[str, str] = {}
        for one in self._implementations[op]:
            if impl not in ("auto", one.name):
                continue
            refusal = one.refusal(args, kwargs)
            if refusal is None:
                return one
            refusals[one.name] = refusal
        can = [one.name for one in self._implementations[op] if one.refusal(args, kwargs) is None]
        known = [one.name for one in self._implementations[op]]
        if refusals:
            why = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        else:
            why = f"there is no such implementation (registered: {', '.join(known)})"
        error = KernelError(
            f"'{op}' was asked for with impl='{impl}', which cannot run: {why}. "
            f"Available for these inputs: {', '.join(can) or 'none'}."
        )
        error.refusals = refusals
        raise error

    def call(self, op: str, impl: str, *args: Any, **kwargs: Any) -> Any:
        """Selects an implementation and runs it; raises what `select` raises."""
        return self.select(op, impl, *args, **kwargs).function(*args, **kwargs)

    def rows(self) -> list[ImplementationRow]:
        """See `list_implementations`."""
        devices = [torch.device("cpu")]
        if torch.cuda.is_available():
            devices.append(torch.device("cuda"))
        rows = []
        for op in self._probes:
            for device in devices:
                args = self.probe(op, device)
                taken = False
                for one in self._implementations[op]:
                    reason = one.refusal(args, {})
                    auto = reason is None and not taken
                    taken = taken or auto
                    rows.append(
                        ImplementationRow(
                            op, one.name, one.owner, device.type, reason is None, reason or "", auto
                        )
                    )
        return rows


registry = KernelRegistry()


def register_implementation(
    op: str,
    name: str,
    function: Callable[..., Any],
    *,
    available: Callable[[], str | None],
    supports: Callable[..., str | None],
    priority: int,
    owner: str,
) -> None:
    """Adds an implementation of an existing operation.

    Args:
        op: The operation: the name of one of this package's public functions.
        name: What `impl=` selects it by.
        function: Called with the operation's arguments, tensors already checked, without `impl`.
        available: None if the implementation can run on this machine, else the reason why not.
        supports: Called with the same arguments as `function`: None if it can run on them, else
            the reason (device, dtype, a gradient it does not have).
        priority: `auto` takes the highest. The reference has 0, this package's kernels 100.
        owner: The distribution that brings it, for error messages and listings.

    Raises:
        KernelError: The operation does not exist, or the name is taken; both owners are named.
    """
    registry.register(
        op, name, function, available=available, supports=supports, priority=priority, owner=owner
    )


def list_implementations() -> list[ImplementationRow]:
    """Every implementation of every operation, for the CPU and, where there is one, the GPU.

    Returns:
        Rows in the order of selection, by operation and device: op, implementation, owner, device,
        whether it runs on ordinary inputs there, why not, and whether `auto` takes it.
    """
    return registry.rows()
