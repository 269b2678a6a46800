"""A benchmark as a page: time against size, speed-ups, and what it was measured with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fairlead.report.block_view import render_blocks
from fairlead.report.blocks import Bar, Bars, Block, Cell, Curve, Curves, Group, Table
from fairlead.report.charts import COLOURS
from fairlead.report.page import document
from fairlead.report.text import escape, figure, moment, percent
from fairlead_kernels.bench import EAGER, Row

LEFT_OUT_FIRST = ("one softmax", "reference")
"""What a chart does without where there are more lines than colours."""


def render_benchmark(
    rows: Sequence[Row], machines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> str:
    """Return a benchmark as one HTML document.

    Args:
        rows: What was measured.
        machines: The limits of the devices it was measured on.
        facts: With what, when and how.
    """
    parts = [_header(facts)]
    by_op = {op: [row for row in rows if row.op == op] for op in dict.fromkeys(r.op for r in rows)}
    for op, some in by_op.items():
        drawn = curves(some) or bars(some)
        blocks = [*drawn, *tables(some)]
        parts.append(
            f"<section id='op-{escape(op)}'>\n<h2>{escape(op)}</h2>\n"
            f"{render_blocks(blocks, f'op-{op}')}\n</section>"
        )
    parts.append(_provenance(machines, facts))
    return document("Kernel benchmark \u2013 Fairlead", parts)


def curves(rows: Sequence[Row]) -> list[Block]:
    """Return time against size, a chart for each axis that varies while the others do not."""
    blocks: list[Block] = []
    for key, some in _groups(rows, lambda row: (row.workload, row.dtype, row.place)):
        timed = [row for row in some if row.median_ms is not None]
        axes = timed[0].axes if timed else ()
        for at, axis in enumerate(axes):
            for others, line in _groups(timed, lambda row, at=at: _without(row.shape, at)):
                if len({row.shape[at] for row in line}) < 2:
                    continue
                fixed = " ".join(
                    f"{name}={size}" for name, size in zip(_without(axes, at), others, strict=True)
                )
                blocks.append(_curves(line, at, axis, ", ".join(filter(None, (*key, fixed)))))
    return blocks


def _curves(rows: Sequence[Row], at: int, axis: str, title: str) -> Curves:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.shape[at]):
        if row.median_ms is not None:
            points.setdefault(row.impl, []).append((float(row.shape[at]), row.median_ms))
    names, note = _fitting(list(points))
    series = tuple(Curve(name, points[name]) for name in names)
    return Curves(series, axis, "ms", title, note, log=True)


def bars(rows: Sequence[Row]) -> list[Block]:
    """Return how many times faster than eager each way is, a group for each case."""
    timed = [row for row in rows if row.speedup_vs_eager is not None and row.impl != EAGER]
    names, note = _fitting(list(dict.fromkeys(row.impl for row in timed)))
    groups = []
    for key, some in _groups(timed, lambda row: (row.workload, row.size, row.dtype, row.place)):
        shown = [Bar(row.impl, row.speedup_vs_eager or math.nan) for row in some]
        groups.append(Group(", ".join(key), [bar for bar in shown if bar.name in names]))
    if not groups:
        return []
    return [Bars(groups, "Times faster than eager", "times", note=note)]


def tables(rows: Sequence[Row]) -> list[Block]:
    """Return a table for each case, with what was not timed and why."""
    columns = ("", "median ms", "peak MiB", "error", "of floor", "times eager", "remark")
    blocks: list[Block] = []
    for key, some in _groups(rows, lambda row: (row.workload, row.size, row.dtype, row.place)):
        lines = [
            [
                row.impl,
                _digits(row.median_ms),
                "" if row.peak_bytes is None else figure(row.peak_bytes / 2**20, 3),
                _digits(row.max_error),
                "" if row.fraction_of_roofline is None else percent(row.fraction_of_roofline),
                _digits(row.speedup_vs_eager),
                _remark(row),
            ]
            for row in some
        ]
        blocks.append(Table(columns, lines, ", ".join(key)))
    return blocks


def _remark(row: Row) -> Cell | str:
    if row.bad:
        return Cell(f"{row.status}: {row.reason}", "bad")
    if row.status == "skipped":
        return f"left out: {row.reason}"
    words = "; ".join(part for part in ("slower than eager" * row.loss, row.reason) if part)
    return Cell(words, "bad") if row.loss else words


def _fitting(names: Sequence[str]) -> tuple[list[str], str]:
    """Return as many names as there are colours, and a note on those left out."""
    kept = list(names)
    for name in [*LEFT_OUT_FIRST, *reversed(names)]:
        if len(kept) > COLOURS and name in kept:
            kept.remove(name)
    lost = [name for name in names if name not in kept]
    return kept, f"Not drawn: {', '.join(lost)}." if lost else ""


def _groups(rows: Iterable[Row], key: Any) -> list[tuple[Any, list[Row]]]:
    """Return rows by key, in the order the keys first appear."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _without(items: Sequence[Any], at: int) -> tuple[Any, ...]:
    return (*items[:at], *items[at + 1 :])


def _digits(value: float | None) -> str:
    return "" if value is None else figure(value, 3)


def _header(facts: Mapping[str, Any]) -> str:
    said = [moment(str(facts.get("date", ""))), *map(str, facts.get("gpus") or [facts.get("cpu")])]
    return (
        "<header>\n<p class='kicker'>Fairlead</p>\n<h1>Kernel benchmark</h1>\n"
        f"<p class='facts'>{escape(', '.join(said))}</p>\n</header>"
    )


def _provenance(machines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    lines = [[str(key), _words(value)] for key, value in facts.items() if key != "command"]
    lines += [[f"limits of {one['device']}", _words(one)] for one in machines]
    table = render_blocks([Table(("what", "value"), lines)], "provenance")
    return (
        "<section id='what-ran'>\n<h2>What ran</h2>\n"
        f"<pre class='command'>{escape(facts.get('command', ''))}</pre>\n{table}\n</section>"
    )


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        known = ((key, _words(item)) for key, item in value.items())
        return ", ".join(f"{key} {text}" for key, text in known if text)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    return "" if value is None else figure(value) if isinstance(value, float) else str(value)
