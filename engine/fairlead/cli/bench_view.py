"""What ``fairlead bench`` prints: a table a case, and what was left out, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from fairlead.ui import Display, short
from fairlead_kernels.bench import Benchmark, Row

COLUMNS = ("", "median ms", "p20 - p80", "peak MiB", "error", "eager's", "vs eager", "vs compile")


def show(benchmark: Benchmark, rows: Sequence[Row], display: Display) -> None:
    """Print everything that was measured.

    Args:
        benchmark: Has the machine's limits.
        rows: What was measured.
        display: Prints the tables.
    """
    for _, some in groupby(rows, key=case_of):
        case = list(some)
        shown = [row for row in case if row.status != "skipped"]
        # Without matrix products the floor is what a copy of its bytes takes.
        products = any(row.fraction_of_gemm is not None for row in case)
        limits = ("of copy", "of GEMM", "of floor") if products else ("of copy",)
        columns = (*COLUMNS, *limits, "remark")
        display.table(title(case[0]), columns, [_cells(row, products) for row in shown])
        print()
    skipped: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status == "skipped":
            skipped.setdefault((row.impl, row.reason), []).append(row.op)
    if skipped:
        lines = [(impl, ", ".join(dict.fromkeys(ops)), why) for (impl, why), ops in skipped.items()]
        display.table("Left out", ("what", "of", "why"), lines)
        print()
    _limits(benchmark, display)


def case_of(row: Row) -> tuple[object, ...]:
    """Return what the rows of one case share."""
    return row.op, row.workload, row.shape, row.dtype, row.device, row.threads


def title(row: Row) -> str:
    """Return what a case is called."""
    floor = f"; floor {milliseconds(row.floor_ms)} ms" if row.floor_ms else ""
    return f"{row.op}, {row.workload}: {row.size}, {row.dtype} on {row.place}{floor}"


def milliseconds(value: float | None) -> str:
    """Return a time with three significant digits."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def remark(row: Row) -> str:
    """Say what is worth knowing of a row."""
    if row.bad:
        return f"{row.status.upper()}, not timed: {row.reason}"
    return "; ".join(part for part in ("LOSS" if row.loss else "", row.reason) if part)


def _cells(row: Row, products: bool) -> list[str]:
    low, high = milliseconds(row.p20_ms), milliseconds(row.p80_ms)
    spread = "-" if row.p20_ms is None else f"{low} - {high}"
    peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.2f}"
    errors = ["-" if one is None else f"{one:.1e}" for one in (row.max_error, row.eager_error)]
    gains = [
        "-" if one is None else f"{one:.2f}x"
        for one in (row.speedup_vs_eager, row.speedup_vs_compile)
    ]
    shares = [row.fraction_of_copy]
    shares += [row.fraction_of_gemm, row.fraction_of_roofline] if products else []
    percents = ["-" if one is None else _percent(one) for one in shares]
    median = milliseconds(row.median_ms)
    return [row.impl, median, spread, peak, *errors, *gains, *percents, remark(row)]


def _percent(share: float) -> str:
    return f"{100 * share:,.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _limits(benchmark: Benchmark, display: Display) -> None:
    rows = []
    for machine in benchmark.machines.values():
        found = machine.as_dict()
        place = machine.device.type
        if machine.device.type == "cpu":
            place = f"{place}, threads={machine.threads}"
        rows.append((place, "copy", f"{short(found['copy_gb_per_s'])} GB/s"))
        for dtype, rate in found["gemm_gflop_per_s"].items():
            rows.append((place, f"{dtype} matrix product", f"{short(rate)} GFLOP/s"))
    display.table("Limits as measured here", ("device", "of", "rate"), rows)
