"""What the benchmark runs: an operation on inputs of a kind, and what it is held against."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fairlead_kernels
from fairlead_kernels.dispatch import registry

if TYPE_CHECKING:
    from fairlead_kernels.bench.judge import Judge

__all__ = [
    "Baseline",
    "Cost",
    "Function",
    "Inputs",
    "Outputs",
    "Shape",
    "Workload",
    "wide",
    "widened",
]

Shape = tuple[int, ...]
Outputs = dict[str, Tensor]
Function = Callable[..., Any]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Inputs:
    """What a function is called with.

    Attributes:
        kwargs: The arguments of the operation's public function, without `impl`.
        upstream: For outputs that are differentiated, the gradient that comes in from above.
        leaves: The arguments to differentiate by; none: forward alone.
    """

    kwargs: dict[str, Any]
    upstream: dict[str, Tensor] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()

    def double(self) -> Inputs:
        """The same numbers in float64."""

        def wider(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.detach().double() if floating else value

        kwargs = {name: wider(value) for name, value in self.kwargs.items()}
        upstream = {name: wider(value) for name, value in self.upstream.items()}
        return Inputs(kwargs, upstream, self.leaves)

    def rows(self, start: int, stop: int, split: tuple[str, ...]) -> Inputs:
        """Some rows of the arguments named in `split` and of every incoming gradient."""
        kwargs = {
            name: value.detach()[start:stop] if name in split and value is not None else value
            for name, value in self.kwargs.items()
        }
        upstream = {name: value[start:stop] for name, value in self.upstream.items()}
        return Inputs(kwargs, upstream, self.leaves)

    def replaced(self, **kwargs: Any) -> Inputs:
        """The same with other arguments."""
        return replace(self, kwargs={**self.kwargs, **kwargs})


@dataclass(frozen=True)
class Cost:
    """The least an operation has to do, by formula.

    Attributes:
        bytes: Read once what has to be read, written once what has to be written.
        flops: Arithmetic; a multiplication with an addition counts as two.
        products: Whether that is matrix products, which a processor has units of their own for.
    """

    bytes: int
    flops: int
    products: bool = False


@dataclass(frozen=True)
class Baseline:
    """Something people use instead, timed beside the implementations.

    Attributes:
        name: Stands in the table.
        prepare: Given the inputs, makes the call to time; what it does itself is not timed. An
            exception is the reason why the baseline is left out.
        note: What it leaves out, where it does less than the operation.
    """

    name: str
    prepare: Callable[[Inputs], Callable[[], object]]
    note: str = ""


@dataclass(frozen=True)
class Workload:
    """An operation, on inputs of one kind.

    Attributes:
        op: The operation.
        name: What tells it from the operation's other workloads.
        axes: Names of a shape's numbers.
        shapes: What is run by default, by device type.
        make: Makes the inputs of a shape; seeded.
        outputs: Names of the results, in their order.
        eager: Plain torch as people write it, called as the public function is. It may return
            fewer results than the operation.
        cost: The floor, from the inputs.
        dtypes: What it can be run in. The first is the default on the CPU.
        cuda_dtype: The default on CUDA.
        plain: Plain torch with all results, whose error is allowed twice; default `eager`.
        split: Arguments whose rows are independent: the float64 results are then formed in parts.
        terms: Sizes of what was added up in an output, where terms of both signs cancel.
        spoil: The same inputs with NaN where nothing may have influence.
        check: Names each exact property that the results do not have.
        judge: Instead of the error rule, where that cannot be it.
        gated: The shape that the gate runs on, of the same kind but smaller, where float64 at the
            whole one takes minutes.
        swept: The axes that `sweep` varies.
        needs: Parameters that the public function must have.
        baselines: What else to time.
        loop: The axis that eager walks in Python, which torch.compile unrolls.
        refuse: Why a shape is none, or None.
    """

    op: str
    name: str
    axes: tuple[str, ...]
    shapes: Mapping[str, tuple[Shape, ...]]
    make: Callable[[Shape, torch.dtype, torch.Generator], Inputs]
    outputs: tuple[str, ...]
    eager: Function
    cost: Callable[[Inputs], Cost]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    cuda_dtype: torch.dtype = torch.float32
    plain: Function | None = None
    split: tuple[str, ...] = ()
    terms: Callable[[Inputs], Outputs] | None = None
    spoil: Callable[[Inputs], Inputs] | None = None
    check: Callable[[Inputs, Outputs], list[str]] | None = None
    judge: Callable[[Workload, Inputs], Judge] | None = None
    gated: Callable[[Shape], Shape] | None = None
    swept: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    loop: str = ""
    refuse: Callable[[Shape], str | None] | None = None

    def offered(self) -> bool:
        """Whether this version of the library has the operation, with all that is needed."""
        if self.op not in registry.operations():
            return False
        parameters = inspect.signature(self.public()).parameters
        return all(name in parameters for name in self.needs)

    def public(self) -> Function:
        """The operation's public function."""
        function: Function = getattr(fairlead_kernels, self.op)
        return function

    def default_dtype(self, device: str) -> torch.dtype:
        """What it is run in where nothing else was asked for."""
        return self.cuda_dtype if device == "cuda" else self.dtypes[0]

    def sweep(self, largest: Shape) -> list[Shape]:
        """Shapes that vary one axis at a time, in five steps up to the largest."""
        shapes = []
        for axis in self.swept:
            at = self.axes.index(axis)
            for factor in (16, 8, 4, 2, 1):
                size = max(1, largest[at] // factor)
                shapes.append((*largest[:at], size, *largest[at + 1 :]))
        return list(dict.fromkeys(shapes))

    def call(self, function: Function, inputs: Inputs) -> Outputs:
        """Runs a function forward and, where there are leaves, backward.

        Args:
            function: Called as the public function is; may return the first few results.
            inputs: What it is called with.

        Returns:
            Results by name, without gradient; the gradient by `x` is called `d x`.
        """
        if not inputs.leaves:
            with torch.no_grad():
                return dict(zip(self.outputs, _flat(function(**inputs.kwargs)), strict=False))
        leaves = [inputs.kwargs[name].detach().requires_grad_() for name in inputs.leaves]
        kwargs = {**inputs.kwargs, **dict(zip(inputs.leaves, leaves, strict=True))}
        named = dict(zip(self.outputs, _flat(function(**kwargs)), strict=False))
        given = [inputs.upstream[name] for name in inputs.upstream]
        gradients = torch.autograd.grad([named[name] for name in inputs.upstream], leaves, given)
        results = {name: value.detach() for name, value in named.items()}
        names = [f"d {name}" for name in inputs.leaves]
        return results | dict(zip(names, gradients, strict=True))

    def timed(self, function: Function, inputs: Inputs) -> Callable[[], object]:
        """The same as `call` and no more, to be timed; in the grad mode that is set around it."""
        if not inputs.leaves:
            return lambda: function(**inputs.kwargs)
        leaves = [inputs.kwargs[name].detach().requires_grad_() for name in inputs.leaves]
        kwargs = {**inputs.kwargs, **dict(zip(inputs.leaves, leaves, strict=True))}
        places = [self.outputs.index(name) for name in inputs.upstream]
        given = list(inputs.upstream.values())

        def call() -> object:
            results = _flat(function(**kwargs))
            return results, torch.autograd.grad([results[i] for i in places], leaves, given)

        return call


def _flat(result: Any) -> list[Tensor]:
    """The tensors of a result: one, several, or several with a dataclass of metrics."""
    if isinstance(result, Tensor):
        return [result]
    parts = result if isinstance(result, tuple) else vars(result).values()
    return [tensor for part in parts for tensor in _flat(part)]


def widened(function: Function) -> Function:
    """The function on float32 copies of inputs in half precision: the results are float32."""

    def call(**kwargs: Any) -> Any:
        return function(
            **{
                name: value.to(wide(value))
                if isinstance(value, Tensor) and value.is_floating_point()
                else value
                for name, value in kwargs.items()
            }
        )

    return call


def wide(x: Tensor) -> torch.dtype:
    """The dtype that results have: float32, or float64 where the exact ones are formed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
