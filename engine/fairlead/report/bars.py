"""Bar charts as inline SVG.

The bars lie: a name stands in full beside its bar and a value behind it, on a phone too,
where upright bars would leave neither any room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fairlead.report.axes import Axis, make_axis, tick_labels
from fairlead.report.blocks import Bar, Bars, Group
from fairlead.report.charts import COLOURS, WIDTH, svg
from fairlead.report.text import escape, figure

ROW, THICK, HEADING, GAP = 17, 11, 17, 9
FOOT = 36
LETTER = 6.1
"""About the width of a letter: nothing here can measure text."""
NAME_LETTERS, HEADING_LETTERS = 17, 50


def bar_names(spec: Bars) -> list[str]:
    """Return the series' names in the order they first appear: the order of the colours."""
    return list(dict.fromkeys(bar.name for group in spec.groups for bar in group.bars))


def unmeasured(spec: Bars) -> int:
    """Return how many bars have no value."""
    return sum(not math.isfinite(bar.value) for group in spec.groups for bar in group.bars)


def bar_chart(title: str, spec: Bars) -> str:
    """Return the chart, or an empty string when there is nothing to draw.

    Args:
        title: For a screen reader.
        spec: What to draw. Where all bars are of one series, the groups' labels name them.
    """
    names = bar_names(spec)
    bars = [bar for group in spec.groups for bar in group.bars]
    if all(not math.isfinite(bar.value) for bar in bars):
        return ""
    alone = len(names) == 1 and all(len(group.bars) == 1 for group in spec.groups)
    labels = [group.label for group in spec.groups] if alone else names
    left = max(map(len, (_short(label, NAME_LETTERS) for label in labels))) * LETTER + 10
    right = WIDTH - max(len(_said(bar.value)) for bar in bars) * LETTER - 8
    axis = _axis(spec, left, right)
    rows, y = [], 4.0
    for group in spec.groups:
        if group.label and group.bars and not alone:
            label = escape(_short(group.label, HEADING_LETTERS))
            rows.append(f'<text class="heading" x="0" y="{y + 11:.1f}">{label}</text>')
            y += HEADING
        for bar in group.bars:
            rows.append(_row(bar, group.label if alone else bar.name, names, axis, y))
            y += ROW
        y += 0 if alone else GAP
    bottom = y + (2 if alone else -GAP + 2)
    body = _frame(spec, axis, bottom) + "".join(rows)
    return svg(title, _describe(spec), body, height=bottom + FOOT)


def _axis(spec: Bars, start: float, end: float) -> Axis:
    """Return the axis: all that is drawn is on it, and zero unless the range leaves it out."""
    ends = [e for group in spec.groups for bar in group.bars for e in _ends(bar)]
    known = [value for value in (*ends, spec.reference) if value is not None]
    low = min(known if spec.low is None else [*known, spec.low])
    high = max(known if spec.high is None else [*known, spec.high])
    low = min(low, 0.0) if spec.low is None else low
    high = max(high, 0.0) if spec.high is None else high
    axis = make_axis(low, high, start, end, 4)
    # An end that was asked for, or that is zero, is where the axis ends: without padding.
    if low < high:
        low = low if low in (spec.low, 0.0) else axis.low
        high = high if high in (spec.high, 0.0) else axis.high
        slack = (high - low) * 1e-9
        ticks = tuple(t for t in axis.ticks if low - slack <= t <= high + slack)
        axis = replace(axis, low=low, high=high, ticks=ticks)
    return axis


def _ends(bar: Bar) -> list[float]:
    if not math.isfinite(bar.value):
        return []
    return [bar.value, *(end for end in (bar.low, bar.high) if end is not None)]


def _row(bar: Bar, label: str, names: Sequence[str], axis: Axis, y: float) -> str:
    """Draw one bar with its name, interval and value."""
    middle = y + ROW / 2
    name = escape(_short(label, NAME_LETTERS))
    parts = [
        f'<text x="{axis.start - 6:.1f}" y="{middle + 3.5:.1f}" text-anchor="end">{name}</text>',
        f'<text class="mark" x="{WIDTH - 1}" y="{middle + 3.5:.1f}" text-anchor="end">'
        f"{escape(_said(bar.value))}</text>",
    ]
    if math.isfinite(bar.value):
        zero = axis.at(min(max(0.0, axis.low), axis.high))
        x0, x1 = sorted((zero, axis.at(bar.value)))
        parts.append(
            f'<rect class="column" x="{x0:.1f}" y="{middle - THICK / 2:.1f}" '
            f'width="{x1 - x0:.1f}" height="{THICK}"/>'
        )
        parts.append(_whisker(_ends(bar), axis, middle))
    tip = f"<title>{escape(f'{label}: {_figures(bar)}')}</title>"
    return f'<g class="series s{names.index(bar.name) % COLOURS}">{tip}{"".join(parts)}</g>'


def _whisker(ends: Sequence[float], axis: Axis, y: float) -> str:
    if len(ends) < 2:
        return ""
    low, high = axis.at(min(ends)), axis.at(max(ends))
    return (
        f'<path class="whisker" d="M{low:.1f} {y - 3:.1f}v6M{low:.1f} {y:.1f}H{high:.1f}'
        f'M{high:.1f} {y - 3:.1f}v6"/>'
    )


def _frame(spec: Bars, axis: Axis, bottom: float) -> str:
    """Draw grid, ticks, zero, the reference and the axis' name."""
    parts = []
    for tick, label in zip(axis.ticks, tick_labels(axis.ticks), strict=True):
        x = axis.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 2V{bottom:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{label}</text>')
    foot = axis.at(min(max(0.0, axis.low), axis.high))
    parts.append(f'<path class="zero" d="M{foot:.1f} 2V{bottom:.1f}"/>')
    if spec.reference is not None:
        x = axis.at(spec.reference)
        parts.append(f'<path class="ideal" d="M{x:.1f} 2V{bottom:.1f}"/>')
    middle = (axis.start + axis.end) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{bottom + FOOT - 5:.1f}" text-anchor="middle">'
        f"{escape(spec.unit or 'value')}</text>"
    )
    return "".join(parts)


def _describe(spec: Bars) -> str:
    """Say every bar: there is no table beside the chart to read instead."""
    said = [_describe_group(group) for group in spec.groups if group.bars]
    if spec.reference is not None:
        said.append(f"Dashed line at {figure(spec.reference)}.")
    return " ".join(said)


def _describe_group(group: Group) -> str:
    bars: Iterable[str] = (f"{bar.name} {_figures(bar)}" for bar in group.bars)
    return f"{group.label}: {', '.join(bars)}." if group.label else f"{', '.join(bars)}."


def _figures(bar: Bar) -> str:
    if not math.isfinite(bar.value):
        return "not measured"
    if bar.low is None and bar.high is None:
        return figure(bar.value, 3)
    ends = _ends(bar)
    return f"{figure(bar.value, 3)} ({figure(min(ends), 3)} to {figure(max(ends), 3)})"


def _said(value: float) -> str:
    return figure(value, 3) if math.isfinite(value) else "\u2013"


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}\u2026"
