"""Blocks a stage puts on the report: what they are, and the file they travel in.

A stage that has more to show than its metrics leaves a ``report.json`` in its directory. The
file is data alone: the report imports no code of the stage's plugin, and a file written by
anything else is read just as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from fairlead.metrics import parse_object
from fairlead.report.values import drawable, is_number, number

BLOCKS = "report.json"

Place = Literal["top", "stage"]
Status = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Text:
    """Words; an empty line begins a new paragraph.

    Attributes:
        text: Plain text, no markup.
        title: Stands above it; may be empty.
    """

    text: str
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell that says how good its content is."""

    text: str
    status: Status = "plain"


@dataclass(frozen=True)
class Table:
    """A table; on a phone each row becomes a card.

    Attributes:
        columns: Names of the columns; the first column names the row.
        rows: Cells in the columns' order; a row may be shorter, not longer.
        title: Stands above it; may be empty.
        note: Stands below it; may be empty.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | Cell]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: The series it belongs to; a name has one colour over all groups.
        value: Where it ends; it begins at zero. NaN when it was not measured.
        low: Where its interval begins, if it has one.
        high: Where its interval ends.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Bars that stand together."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Bars:
    """A bar chart.

    Attributes:
        groups: From top to bottom.
        title: Stands above it; may be empty.
        unit: Names the axis.
        reference: Value of a dashed line, such as the 0.5 of a win rate.
        low: Where the axis begins; values below it still widen it.
        high: Where the axis ends; values above it still widen it.
        note: Stands below it; may be empty.
    """

    groups: Sequence[Group]
    title: str = ""
    unit: str = ""
    reference: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: What it is called in the key.
        points: (x, y) in the order they are joined in; a y that is NaN leaves a gap.
        smooth: Draw a moving mean along the order of the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    smooth: bool = False


@dataclass(frozen=True)
class Curves:
    """Lines in one chart.

    Attributes:
        series: Two to four are told apart well.
        x: Names the horizontal axis; ``step`` gets ticks at whole numbers.
        y: Names the vertical axis.
        title: Stands above it; may be empty.
        note: Stands below it; may be empty.
        log: Both axes are logarithmic.
    """

    series: Sequence[Curve]
    x: str
    y: str
    title: str = ""
    note: str = ""
    log: bool = False


Block = Text | Table | Bars | Curves
_KINDS: dict[type[Block], str] = {Text: "text", Table: "table", Bars: "bars", Curves: "curves"}


@dataclass(frozen=True)
class Sheet:
    """What a stage's file of blocks holds.

    Attributes:
        place: ``top`` of the page, or in the section of the ``stage``.
        blocks: Those that could be read, in order.
        unreadable: How many could not; a file that is no such file counts as one.
    """

    place: Place = "stage"
    blocks: tuple[Block, ...] = ()
    unreadable: int = 0


def write_blocks(directory: Path, blocks: Sequence[Block], place: Place = "stage") -> None:
    """Write a stage's blocks, in place of any it wrote before.

    Args:
        directory: The stage's directory; made when absent.
        blocks: In the order they are to be shown in.
        place: ``top``: above all stages; ``stage``: in the stage's section, before its charts.
    """
    # Here and not above: it brings torch, which reading a report does without.
    from fairlead.checkpoint import write_atomically

    entries = [{"kind": _KINDS[type(block)], **_plain(block)} for block in blocks]
    text = json.dumps({"place": place, "blocks": entries}, ensure_ascii=False, allow_nan=False)
    directory.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, as a model may write, is no UTF-8: it becomes a question mark.
    write_atomically(directory / BLOCKS, text.encode(errors="replace").decode() + "\n")


def _plain(value: Any) -> Any:
    """Return a value as JSON; null stands for a number that is not finite: JSON has none."""
    if is_dataclass(value):
        known = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: _plain(item) for name, item in known.items() if item is not None}
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, Real):  # NumPy's numbers too
        return float(value) if math.isfinite(value) else None
    return [_plain(item) for item in value]


def read_blocks(path: Path) -> Sheet:
    """Read a file of blocks, which may be missing, damaged or another program's."""
    try:
        entry = parse_object(path.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return Sheet()
    except OSError:
        entry = None
    listed = None if entry is None else entry.get("blocks")
    if entry is None or not isinstance(listed, list):
        return Sheet(unreadable=1)
    known: list[Block] = []
    for item in listed:
        try:
            known.append(_block(item))
        except ValueError:
            continue
    place: Place = "top" if entry.get("place") == "top" else "stage"
    return Sheet(place, tuple(known), len(listed) - len(known))


def _block(item: Any) -> Block:
    """Return the block an entry describes.

    Raises:
        ValueError: When it describes none. What is not a number where one is due is no such
            fault: it is a value that was not measured.
    """
    entry = _object(item)
    kinds: dict[str, Callable[[dict[str, Any]], Block]] = {
        "text": lambda e: Text(_text(e.get("text")), _text(e.get("title"))),
        "table": _table,
        "bars": _bars,
        "curves": _curves,
    }
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"no such kind of block: {kind!r}")
    return kinds[kind](entry)


def _table(entry: dict[str, Any]) -> Table:
    columns = tuple(_text(column) for column in _list(entry.get("columns")))
    rows = tuple(tuple(map(_cell, _list(row))) for row in _list(entry.get("rows")))
    if any(len(row) > len(columns) for row in rows):
        raise ValueError("a row has more cells than there are columns")
    return Table(columns, rows, _text(entry.get("title")), _text(entry.get("note")))


def _cell(item: Any) -> str | float | Cell:
    if isinstance(item, dict):
        status: Status = "plain"
        if item.get("status") in ("good", "bad"):
            status = item["status"]
        return Cell(_text(item.get("text")), status)
    return _value(item) if is_number(item) else _text(item)


def _bars(entry: dict[str, Any]) -> Bars:
    groups = []
    for item in map(_object, _list(entry.get("groups"))):
        bars = [
            Bar(
                _text(bar.get("name")),
                _value(bar.get("value")),
                _limit(bar.get("low")),
                _limit(bar.get("high")),
            )
            for bar in map(_object, _list(item.get("bars")))
        ]
        groups.append(Group(_text(item.get("label")), tuple(bars)))
    return Bars(
        tuple(groups),
        _text(entry.get("title")),
        _text(entry.get("unit")),
        _limit(entry.get("reference")),
        _limit(entry.get("low")),
        _limit(entry.get("high")),
        _text(entry.get("note")),
    )


def _curves(entry: dict[str, Any]) -> Curves:
    series = []
    for item in map(_object, _list(entry.get("series"))):
        points = map(_list, _list(item.get("points")))
        # A point of any other length is a ValueError here, as it should be.
        pairs = tuple((_value(x), _value(y)) for x, y in points)
        series.append(Curve(_text(item.get("name")), pairs, item.get("smooth") is True))
    return Curves(
        tuple(series),
        _text(entry.get("x")),
        _text(entry.get("y")),
        _text(entry.get("title")),
        _text(entry.get("note")),
        entry.get("log") is True,
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise ValueError("not a text")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _value(value: Any) -> float:
    return drawable(number(value))


def _limit(value: Any) -> float | None:
    known = _value(value)
    return None if math.isnan(known) else known
