"""Whether results are right: the gate before any timing.

The rule is the library's own: an error against float64 of at most twice that of plain torch in the
same dtype, or 4 ulp; what is exact is compared with `==`. Inputs must be left as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fairlead_kernels.bench.workload import Function, Inputs, Outputs, Workload

__all__ = [
    "PLAIN_FACTOR",
    "ULPS",
    "Judge",
    "Verdict",
    "difference",
    "error_rule",
    "exact_properties",
    "judge_for",
    "largest",
    "measure_error",
]

PLAIN_FACTOR = 2.0
ULPS = 4.0
# Numbers of one part of a float64 result: 256 MiB.
_PART = 1 << 25


@dataclass(frozen=True)
class Verdict:
    """What a gate found.

    Attributes:
        problems: What is wrong, in words; none: right.
        max_error: The largest absolute error of any result; NaN where it cannot be told.
        plain_error: The same of plain torch.
        errors: By result, its error, plain torch's and the largest that the rule allows there.
        remark: What is worth saying although it is right.
    """

    problems: tuple[str, ...]
    max_error: float
    plain_error: float
    errors: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    remark: str = ""


Judge = Callable[[Function], Verdict]
"""Runs an implementation on the inputs it was made for, and says whether it is right."""


def judge_for(workload: Workload, inputs: Inputs) -> Judge:
    """The gate for one workload on one set of inputs; float64 results are formed once."""
    judge = (workload.judge or error_rule)(workload, inputs)

    def whole(function: Function) -> Verdict:
        with _Unwritten(inputs) as unwritten:
            verdict = judge(function)
        problems = unwritten.problems()
        return replace(verdict, problems=(*problems, *verdict.problems)) if problems else verdict

    return whole


class _Unwritten:
    """Whether the inputs hold what they held, to the bit; what was written to is put back."""

    def __init__(self, inputs: Inputs) -> None:
        given = {
            **inputs.kwargs,
            **{f"gradient of {name}": one for name, one in inputs.upstream.items()},
        }
        self._given = {name: one for name, one in given.items() if isinstance(one, Tensor)}
        self._written: list[str] = []

    def __enter__(self) -> _Unwritten:
        self._before = {name: one.detach().clone() for name, one in self._given.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            now = self._given[name].detach()
            if not torch.equal(_bytes(now), _bytes(before)):
                self._written.append(name)
                now.copy_(before)
        del self._before

    def problems(self) -> tuple[str, ...]:
        """What was written to, in words."""
        return tuple(f"it writes to its input {name}" for name in self._written)


def _bytes(x: Tensor) -> Tensor:
    """The memory of a tensor, so that a NaN is equal to itself."""
    return x.contiguous().view(torch.uint8) if x.dim() else x.reshape(1).view(torch.uint8)


def ulp(x: Tensor) -> Tensor:
    """The float32 spacing at |x|, as float64; 0 where x is not finite."""
    x32 = x.abs().float()
    spacing = torch.nextafter(x32, torch.full_like(x32, math.inf)).double() - x32.double()
    return spacing.nan_to_num(nan=0.0, posinf=0.0)


def difference(actual: Tensor, exact: Tensor) -> Tensor:
    """Absolute errors in float64; infinite where one of the two alone is not finite."""
    error = (actual.double() - exact).abs()
    same = (actual.double() == exact) | (actual.isnan() & exact.isnan())
    return torch.where(same, 0.0, error.nan_to_num(nan=math.inf))


def largest(error: Tensor) -> float:
    """The largest of some errors; 0 of none."""
    return float(error.max()) if error.numel() else 0.0


def measure_error(
    name: str, actual: Tensor, plain: float, exact: Tensor, terms: Tensor | None = None
) -> tuple[tuple[float, float, float], str | None]:
    """One result under the rule.

    Args:
        name: The result's name.
        actual: What an implementation returned.
        plain: Plain torch's largest error.
        exact: The float64 result.
        terms: Sizes of what was added up, if not the result's own.

    Returns:
        The error, plain torch's and what is allowed where it is worst; and what is wrong, or None.
    """
    if actual.shape != exact.shape:
        shapes = f"{list(actual.shape)}, not {list(exact.shape)}"
        return (math.nan, plain, math.nan), f"{name} has the shape {shapes}"
    error = difference(actual, exact)
    size = exact if terms is None else terms
    allowed = (
        (ULPS * ulp(size))
        .expand_as(error)
        .clamp(min=PLAIN_FACTOR * (plain if math.isfinite(plain) else 0.0))
    )
    if not error.numel():
        return (0.0, plain, 0.0), None
    at = int((error - allowed).argmax())
    worst, bound = float(error.flatten()[at]), float(allowed.flatten()[at])
    row = (largest(error), plain, bound)
    if worst <= bound:
        return row, None
    wrong = int((error > allowed).sum())
    where = f" in {wrong:,} of {error.numel():,} places" if error.numel() > 1 else ""
    return row, f"{name} is off by {worst:.2e}, allowed are {bound:.2e}{where}"


def exact_outputs(workload: Workload, inputs: Inputs) -> Outputs:
    """The results in float64, formed in parts where rows are independent."""
    plain = workload.plain or workload.eager
    if not workload.split:
        return workload.call(plain, inputs.double())
    given = [value for value in inputs.kwargs.values() if isinstance(value, Tensor)]
    first = inputs.kwargs[workload.split[0]]
    # What a row takes: its own numbers, or a product as wide as the longest side of any argument.
    own = [inputs.kwargs[name].shape[1:].numel() for name in workload.split]
    width = max(*own, *(max(value.shape) for value in given))
    step = max(1, _PART // max(1, width))
    shared = {f"d {name}" for name in inputs.leaves if name not in workload.split}
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, max(1, first.shape[0]), step):
        some = inputs.rows(start, start + step, workload.split)
        for name, value in workload.call(plain, some.double()).items():
            if name in shared and name in parts:
                parts[name][0] += value  # all parts at once may be more than there is memory
            else:
                parts.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in parts.items()}


def error_rule(workload: Workload, inputs: Inputs) -> Judge:
    """The error rule on every result, the workload's exact properties, and no influence of NaN."""
    exact = exact_outputs(workload, inputs)
    plain = workload.call(workload.plain or workload.eager, inputs)
    plain_errors = {name: largest(difference(plain[name], exact[name])) for name in exact}
    del plain
    terms = workload.terms(inputs.double()) if workload.terms else {}

    def judge(function: Function) -> Verdict:
        actual = workload.call(function, inputs)
        errors, problems = {}, []
        for name, right in exact.items():
            if name not in actual:
                problems.append(f"{name} is missing")
                continue
            row, problem = measure_error(
                name, actual[name], plain_errors[name], right, terms.get(name)
            )
            errors[name] = row
            problems += [problem] if problem else []
        if not problems:
            problems += exact_properties(workload, inputs, function, actual)
        found = [row[0] for row in errors.values()]
        worst = math.nan if any(map(math.isnan, found)) else max(found, default=math.nan)
        return Verdict(tuple(problems), worst, max(plain_errors.values()), errors)

    return judge


def exact_properties(
    workload: Workload, inputs: Inputs, function: Function, actual: Outputs
) -> list[str]:
    """The workload's exact properties that some results do not have, in words."""
    problems = workload.check(inputs, actual) if workload.check else []
    if workload.spoil is not None:
        again = workload.call(function, workload.spoil(inputs))
        touched = [name for name, value in actual.items() if not torch.equal(value, again[name])]
        if touched:
            problems.append(f"NaN where nothing counts changes {', '.join(touched)}")
    return problems
