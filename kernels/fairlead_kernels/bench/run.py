"""Running the benchmark: first the gate, then the clock, one case after another."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from fairlead_kernels.bench.judge import Verdict, judge_for
from fairlead_kernels.bench.machine import Machine, dtype_name
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.bench.room import Need, estimate, free_bytes, human, ran_out
from fairlead_kernels.bench.rows import Row
from fairlead_kernels.bench.timing import Samples, device_seconds, measure
from fairlead_kernels.bench.workload import Baseline, Cost, Inputs, Shape, Workload
from fairlead_kernels.dispatch import (
    OWN,
    ImplementationRow,
    KernelError,
    list_implementations,
)
from fairlead_kernels.triton import INTERPRETED

__all__ = ["COMPILE", "EAGER", "Benchmark", "Case"]

EAGER, COMPILE = "eager", "torch.compile"
SEED = 20260101
# A Python loop is unrolled; compiling grows faster than its length and takes minutes beyond this.
_LONGEST_LOOP = 256
_REASON_LETTERS = 300
_MODULES = {"liger_kernel": "liger_kernel", "flash-attn": "flash_attn", "xformers": "xformers"}

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A workload at one size, in one place."""

    workload: Workload
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    threads: int

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join([f"{self.workload.op} ({self.workload.name})", self.size])

    @property
    def size(self) -> str:
        """Shape, dtype and place."""
        shape = "x".join(map(str, self.shape))
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}"
        place = f"{self.device.type}{threads if self.device.type == 'cpu' else ''}"
        return f"[{shape}] {dtype_name(self.dtype)} on {place}"


@dataclass
class Benchmark:
    """Runs cases.

    Attributes:
        impls: The implementations to run; None: all.
        seconds: How long to measure each of them, and each baseline.
        compiled: Whether torch.compile is a baseline.
        machines: The devices that have been measured.
        needs: About what memory cases take, where it was estimated.
    """

    impls: tuple[str, ...] | None = None
    seconds: float = 1.0
    compiled: bool = True
    machines: dict[tuple[str, int], Machine] = field(default_factory=dict)
    needs: dict[tuple[Any, ...], Need | None] = field(default_factory=dict)

    def run(self, cases: Sequence[Case]) -> Generator[list[Row], None, None]:
        """Runs cases in order.

        Args:
            cases: What to run.

        Yields:
            The rows of each case: baselines first, then implementations as `auto` ranks them.
        """
        threads = torch.get_num_threads()
        try:
            for case in cases:
                torch.set_num_threads(case.threads)
                yield self.run_case(case)
        finally:
            torch.set_num_threads(threads)

    def run_case(self, case: Case) -> list[Row]:
        """The gate, then the clock, for every way to run one case."""
        shortage = self.shortage(case)
        if shortage is not None:
            return self._skipped(case, shortage)
        try:
            return self._run_case(case)
        except Exception as error:
            if not ran_out(error):
                raise
            return self._skipped(case, f"memory ran out: {_said(error)}")

    def shortage(self, case: Case) -> str | None:
        """Why a case cannot be begun with the memory that is free, or None."""
        need, free = self._need(case)
        if need is None or free is None or need.gate <= free:
            return None
        return (
            f"its inputs and the check against float64 take {human(need.gate)}, "
            f"{human(free)} are free"
        )

    def _need(self, case: Case) -> tuple[Need | None, int | None]:
        free = free_bytes(case.device)
        if free is None:
            return None, None
        workload = case.workload
        key = (workload.op, workload.name, case.shape, case.dtype, str(case.device))
        if key not in self.needs:
            self.needs[key] = estimate(workload, case.shape, case.dtype, case.device, free)
        return self.needs[key], free

    def _skipped(self, case: Case, reason: str) -> list[Row]:
        return [
            replace(_row(case, one.impl, owner=one.owner), status="skipped", reason=reason)
            for one in self._listed(case)
        ]

    def _listed(self, case: Case) -> list[ImplementationRow]:
        return [
            one
            for one in list_implementations()
            if (self.impls is None or one.impl in self.impls)
            and (one.op, one.device) == (case.workload.op, case.device.type)
        ]

    def _plain_is_too_large(self, case: Case) -> str | None:
        """Why plain torch is not timed on the whole case, or None."""
        need, free = self._need(case)
        if need is None or free is None or need.eager <= free:
            return None
        return f"plain torch takes {human(need.eager)} here, {human(free)} are free"

    def _run_case(self, case: Case) -> list[Row]:
        workload = case.workload
        too_large = self._plain_is_too_large(case)
        inputs = _inputs(case, case.shape)
        cost = workload.cost(inputs)
        machine = self._machine(case, cost.products)
        gated = workload.gated(case.shape) if workload.gated else case.shape
        rows, verdict = self._gate(case, gated, inputs if gated == case.shape else None)
        if not any(row.status == "timed" for row in rows):
            return rows  # nothing to hold a baseline against
        if too_large is not None:
            rows = [_left_out(row, too_large) if row.impl == "reference" else row for row in rows]
        gc.collect()
        calls: dict[tuple[str, str], Call] = {
            ("implementation", row.impl): workload.timed(
                partial(workload.public(), impl=row.impl), inputs
            )
            for row in rows
            if row.status == "timed"
        }
        with torch.set_grad_enabled(bool(inputs.leaves)):
            baselines = []
            for baseline in self._baselines(case):
                plain = baseline.name in (EAGER, COMPILE)
                row, call = _prepared(case, baseline, inputs, too_large if plain else None)
                baselines.append(row)
                if call is not None:
                    calls["baseline", row.impl] = call
            if verdict is not None and baselines[0].status == "timed":
                error = verdict.plain_error
                baselines[0] = replace(baselines[0], max_error=error, eager_error=error)
            rows = [*baselines, *rows]
            return self._clock(case, cost, machine, rows, calls)

    def _machine(self, case: Case, products: bool) -> Machine:
        key = (str(case.device), case.threads)
        machine = self.machines.setdefault(key, Machine(case.device, case.threads))
        machine.measure(case.dtype, products)
        return machine

    def _gate(
        self, case: Case, shape: Shape, inputs: Inputs | None
    ) -> tuple[list[Row], Verdict | None]:
        """Rows of the implementations; those that are right have the status `timed`."""
        workload, judge, last = case.workload, None, None
        inputs = inputs or _inputs(case, shape)
        smaller = "" if shape == case.shape else f"gate at {'x'.join(map(str, shape))}"
        rows = []
        for listed in self._listed(case):
            row = _row(case, listed.impl, owner=listed.owner)
            if INTERPRETED and (listed.impl, listed.owner) == ("triton", OWN):
                why = "triton interprets its kernels here: that shows no speed"
                rows.append(replace(row, status="skipped", reason=why))
                continue
            try:
                judge = judge or judge_for(workload, inputs)
                found = judge(partial(workload.public(), impl=listed.impl))
            except KernelError as error:
                why = error.refusals.get(listed.impl) or _said(error)
                row = replace(row, status="skipped", reason=why)
            except Exception as error:
                row = (
                    _left_out(row, f"memory ran out: {_said(error)}")
                    if ran_out(error)
                    else replace(row, status="failed", reason=_said(error))
                )
            else:
                last = found
                row = replace(
                    row,
                    status="wrong" if found.problems else "timed",
                    reason="; ".join(found.problems or filter(None, (smaller, found.remark))),
                    max_error=found.max_error,
                    eager_error=found.plain_error,
                    errors=found.errors,
                )
            rows.append(row)
        return rows, last

    def _baselines(self, case: Case) -> list[Baseline]:
        workload = case.workload
        ours = {row.impl for row in list_implementations() if row.op == workload.op}
        found = [Baseline(EAGER, partial(workload.timed, workload.eager))]
        # What is an implementation of the operation is measured as one.
        found += [one for one in workload.baselines if one.name not in ours]
        if self.compiled:
            found.insert(1, Baseline(COMPILE, partial(_compiled, case)))
        return found

    def _clock(
        self,
        case: Case,
        cost: Cost,
        machine: Machine,
        rows: list[Row],
        calls: dict[tuple[str, str], Call],
    ) -> list[Row]:
        """Rows with their times, memory, and what both come to against the others."""
        by_name = {f"{kind} {name}": call for (kind, name), call in calls.items()}
        peaks, ran_short = _peaks(by_name, case.device)
        by_name = {name: by_name[name] for name in peaks}
        samples = measure(by_name, case.device, self.seconds)
        cuda = case.device.type == "cuda"
        busy = {name: device_seconds(call, case.device) for name, call in by_name.items() if cuda}
        floor = machine.floor(cost, case.dtype)
        gemm = machine.gemm[case.dtype] if cost.products else None

        def against(name: str, other: str) -> float | None:
            there = f"baseline {other}"
            if there not in samples:
                return None
            return samples[there].milliseconds(0.5) / samples[name].milliseconds(0.5)

        def timed(row: Row) -> Row:
            name = f"{row.kind} {row.impl}"
            row = replace(row, bytes=cost.bytes, flops=cost.flops, floor_ms=1e3 * floor)
            if name in ran_short:
                return _left_out(row, ran_short[name])
            if name not in samples:
                return row
            found: Samples = samples[name]
            median = found.milliseconds(0.5) / 1e3
            device_time = busy.get(name)
            return replace(
                row,
                median_ms=1e3 * median,
                p20_ms=found.milliseconds(0.2),
                p80_ms=found.milliseconds(0.8),
                samples=len(found.seconds),
                device_ms=None if device_time is None else 1e3 * device_time,
                peak_bytes=peaks[name],
                fraction_of_copy=cost.bytes / median / machine.copy,
                fraction_of_gemm=cost.flops / median / gemm if gemm else None,
                fraction_of_roofline=floor / median,
                speedup_vs_eager=against(name, EAGER),
                speedup_vs_compile=against(name, COMPILE),
            )

        return [timed(row) for row in rows]


def _inputs(case: Case, shape: Shape) -> Inputs:
    generator = torch.Generator(case.device).manual_seed(SEED)
    return case.workload.make(shape, case.dtype, generator)


def _row(case: Case, impl: str, owner: str = "", kind: str = "implementation") -> Row:
    return Row(
        op=case.workload.op,
        workload=case.workload.name,
        impl=impl,
        kind="baseline" if kind == "baseline" else "implementation",
        owner=owner,
        status="timed",
        reason="",
        device=case.device.type,
        dtype=dtype_name(case.dtype),
        shape=case.shape,
        axes=case.workload.axes,
        threads=case.threads if case.device.type == "cpu" else None,
    )


def _left_out(row: Row, reason: str) -> Row:
    return replace(row, status="skipped", reason=reason)


def _peaks(calls: dict[str, Call], device: torch.device) -> tuple[dict[str, int], dict[str, str]]:
    """The memory that each call takes; and of those that there was not enough for, the reason."""
    peaks, ran_short = {}, {}
    for name, call in calls.items():
        try:
            peaks[name] = peak_bytes(call, device)
        except Exception as error:
            if not ran_out(error):
                raise
            ran_short[name] = f"memory ran out: {_said(error)}"
            gc.collect()
    return peaks, ran_short


def _prepared(
    case: Case, baseline: Baseline, inputs: Inputs, too_large: str | None
) -> tuple[Row, Call | None]:
    """A baseline's row, and its call where it runs here; the call has run once."""
    row = _row(case, baseline.name, kind="baseline")
    if too_large is not None:
        return _left_out(row, too_large), None
    module = _MODULES.get(baseline.name)
    if module is not None and importlib.util.find_spec(module) is None:
        return replace(row, status="skipped", reason=f"{baseline.name} is not installed"), None
    try:
        call = baseline.prepare(inputs)
        call()
    except Exception as error:  # whatever another library, or a compiler, raises here
        return replace(row, status="skipped", reason=_said(error)), None
    return replace(row, reason=baseline.note), call


def _compiled(case: Case, inputs: Inputs) -> Call:
    workload = case.workload
    if workload.loop:
        steps = case.shape[workload.axes.index(workload.loop)]
        if steps > _LONGEST_LOOP:
            raise KernelError(f"it unrolls the loop: {steps} steps take minutes to compile")
    # Each case compiles anew: a recompilation for another shape would count against a limit.
    torch._dynamo.reset()
    return workload.timed(torch.compile(workload.eager, dynamic=False), inputs)


def _said(error: Exception) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _REASON_LETTERS else f"{text[:_REASON_LETTERS]}..."
