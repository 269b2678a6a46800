"""Stages' own blocks as HTML. Every text in them goes through `escape`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby, pairwise

from fairlead.report.bars import bar_chart, bar_names, unmeasured
from fairlead.report.blocks import Bars, Block, Cell, Curve, Curves, Table, Text
from fairlead.report.charts import COLOURS, Series, line_chart, mean_path
from fairlead.report.text import escape, figure

_MARKS = {"good": "\u2713", "bad": "\u2717"}
_SHORT = 12
"""Letters up to which a cell is one thing, such as 0.85 ± 0.03, and is not broken."""
_DOTTED = 24
"""Up to as many points of a curve are marked: they are measurements, not a trace."""


def block_titles(blocks: Sequence[Block]) -> list[tuple[int, str]]:
    """Return (position, title) of the blocks that have a title; positions begin at 1."""
    return [(index, block.title) for index, block in enumerate(blocks, 1) if block.title]


def render_blocks(blocks: Sequence[Block], key: str, heading: str = "h3") -> str:
    """Return blocks as HTML, charts that follow each other side by side.

    Args:
        blocks: In the order they are shown in.
        key: What the blocks' ids begin with; a position from 1 follows it.
        heading: The element a block's title stands in; a chart's stands in its caption.
    """
    drawn = [(block, f"{key}-{index}") for index, block in enumerate(blocks, 1)]
    parts = []
    for charts, some in groupby(drawn, key=lambda one: isinstance(one[0], (Bars, Curves))):
        html = "".join(_render(block, name, heading) for block, name in some)
        parts.append(f"<div class='charts'>{html}</div>" if charts else html)
    return "\n".join(parts)


def _render(block: Block, name: str, heading: str) -> str:
    if isinstance(block, Bars):
        body = _bars(block)
    elif isinstance(block, Curves):
        body = _curves(block)
    else:
        body = _table(block) if isinstance(block, Table) else _text(block)
    body = body or "<p class='note'>Nothing here could be drawn; left out.</p>"
    id_ = f"id='{escape(name)}'"
    if isinstance(block, (Bars, Curves)):
        title = f"<span class='names'>{escape(block.title)}</span>"
        caption = f"<figcaption>{title}</figcaption>" if block.title else ""
        return f"<figure {id_}>{caption}{body}</figure>"
    title = f"<{heading}>{escape(block.title)}</{heading}>" if block.title else ""
    return f"<div {id_} class='block'>{title}{body}</div>"


def _text(block: Text) -> str:
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", block.text) if part.strip()]
    return "".join(f"<p class='prose' dir='auto'>{escape(part)}</p>" for part in paragraphs)


def _table(block: Table) -> str:
    """Return a table whose cells know their column: on a phone a row is a card of them."""
    if not block.columns or not block.rows:
        return ""
    count = len(block.columns)
    rows = [[*row, *[""] * (count - len(row))] for row in block.rows]
    columns = zip(*rows, strict=True)
    right = [any(map(_is_figure, column)) and all(map(_may_align, column)) for column in columns]
    kinds = [" class='figure'" * one for one in right]
    head = "".join(
        f"<th scope='col'{kind}>{escape(column)}</th>"
        for column, kind in zip(block.columns, kinds, strict=True)
    )
    body = []
    for row in rows:
        cells = zip(row, block.columns, kinds, ("th", *["td"] * count), strict=False)
        body.append(f"<tr>{''.join(_table_cell(*cell) for cell in cells)}</tr>")
    table = (
        f"<div class='scroll' tabindex='0'><table class='rows'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    return table + _note(escape(block.note))


def _is_figure(cell: str | float | Cell) -> bool:
    return not isinstance(cell, (str, Cell))


def _may_align(cell: str | float | Cell) -> bool:
    return _is_figure(cell) or cell == ""


def _table_cell(cell: str | float | Cell, column: str, kind: str, tag: str) -> str:
    scope = " scope='row'" if tag == "th" else ""
    text = cell.text if isinstance(cell, Cell) else str(cell)
    short = " class='short'" if len(text) <= _SHORT else ""
    # One element in the cell, to stand beside the column's name where the row is a card.
    shown = f"<span dir='auto'{short}>{_cell(cell)}</span>"
    return f"<{tag}{scope} data-column='{escape(column)}'{kind}>{shown}</{tag}>"


def _cell(cell: str | float | Cell) -> str:
    if isinstance(cell, str):
        return escape(cell) if cell.strip() else "\u2013"
    if not isinstance(cell, Cell):
        return escape(figure(cell))
    if cell.status not in _MARKS:
        return escape(cell.text) if cell.text.strip() else "\u2013"
    mark = f"<span aria-hidden='true'>{_MARKS[cell.status]}</span>"
    words = f"<span class='unseen'>{cell.status}: </span>"
    return f"<span class='status {cell.status}'>{mark} {words}{escape(cell.text)}</span>"


def _bars(block: Bars) -> str:
    chart = bar_chart(block.title or block.unit or "Bars", block)
    if not chart:
        return ""
    names = bar_names(block)
    keys = [
        _key(
            name, f"s{index % COLOURS}", "<rect class='column' x='1' y='1' width='14' height='8'/>"
        )
        for index, name in enumerate(names)
        if len(names) > 1
    ]
    if block.reference is not None:
        line = "<path class='ideal' d='M8 0V10'/>"
        keys.append(_key(f"reference {figure(block.reference)}", "", line))
    bars = [bar for group in block.groups for bar in group.bars]
    said = (
        "Whiskers: intervals." if any(b.low is not None or b.high is not None for b in bars) else ""
    )
    return (
        chart + _note(" ".join(keys)) + _note(_joined(block.note, _lost(unmeasured(block)), said))
    )


def _curves(block: Curves) -> str:
    known = [(curve, _known_x(curve)) for curve in block.series]
    drawn = [_series(curve.name, points, curve.smooth) for curve, points in known]
    drawn = [one for one in drawn if any(math.isfinite(y) for _, y in one.points)]
    steps = block.x.strip().lower() in ("step", "steps")
    title = block.title or f"{block.y} against {block.x}"
    chart = line_chart(title, drawn, block.x or "x", block.y or "y", steps, block.log)
    if not chart:
        return ""
    line = "<path class='line' d='M0 5H26'/>"
    keys = [_key(one.name, f"s{index % COLOURS}", line, 26) for index, one in enumerate(drawn)]
    lost = sum(
        not (math.isfinite(x) and math.isfinite(y))
        for curve in block.series
        for x, y in curve.points
    )
    paths = [one for one in drawn if one.path]
    ends = "Each line runs from its open dot to its full one." if len(paths) > 1 else ""
    said = "Lines are moving means." if any(curve.smooth for curve in block.series) else ""
    return chart + _note(" ".join(keys)) + _note(_joined(block.note, _lost(lost), ends, said))


def _known_x(curve: Curve) -> list[tuple[float, float]]:
    return [(x, y) for x, y in curve.points if math.isfinite(x)]


def _series(name: str, points: Sequence[tuple[float, float]], smooth: bool) -> Series:
    """Return a curve as a line of a chart: as a path where it goes back on the x axis."""
    if all(one[0] <= two[0] for one, two in pairwise(points)):
        return Series(name, points, smooth=smooth, dots=len(points) <= _DOTTED)
    whole = [point for point in points if math.isfinite(point[1])]
    if smooth and len(whole) >= 8:
        return Series(name, mean_path(whole), path=True)
    return Series(name, points, path=True)


def _key(name: str, colour: str, drawing: str, width: int = 16) -> str:
    swatch = f"<svg class='swatch {colour}' viewBox='0 0 {width} 10' width='{width}' height='10' "
    return f"<span class='key'>{swatch}aria-hidden='true'>{drawing}</svg>{escape(name)}</span>"


def _lost(count: int) -> str:
    return f"{count:,} value{'s' * (count != 1)} not finite." if count else ""


def _joined(note: str, *more: str) -> str:
    return " ".join([escape(note), *more]).strip()


def _note(html: str) -> str:
    return f"<p class='note'>{html}</p>" if html else ""
