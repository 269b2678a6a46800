"""Collecting records from what a source reads, counting the bad ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from fairlead.config import Config
from fairlead.errors import DataError
from fairlead.records import Record
from fairlead_plugins.sources.parse import Format, parse
from fairlead_plugins.sources.reader import read_objects
from fairlead_plugins.sources.row import Fault, FieldName, Row

LOG = logging.getLogger("fairlead.data")

ItemT = TypeVar("ItemT")


class SkipConfig(Config):
    """The setting of every source that reads.

    Attributes:
        skip: The most bad records to leave out; each is counted and the log says why.
    """

    skip: int = Field(default=0, ge=0)


class RecordConfig(SkipConfig):
    """Settings of sources whose records may come in any format.

    Attributes:
        format: How to read a record (`fairlead_plugins.sources.parse`); ``auto`` goes by
            each record's own fields.
        fields: Usual field name to the name the data has for it, as in
            ``{prompt: question, completion: answer}``.
    """

    format: Format = "auto"
    fields: dict[FieldName, str] = Field(default_factory=dict)


def gather(
    items: Iterable[tuple[str, ItemT | Fault]],
    make: Callable[[ItemT, str], list[Record]],
    skip: int,
    source: str,
) -> list[Record]:
    """Make records of items, leaving out at most ``skip`` bad ones.

    Args:
        items: Origin and item, or origin and the fault that reading it met.
        make: Makes records of an item and its origin; raises `Fault`.
        skip: The most bad records to leave out.
        source: What is read, for messages.

    Raises:
        DataError: On one bad record more than the cap, or when no record is left.
    """
    records: list[Record] = []
    first, bad = "", 0
    for origin, item in items:
        try:
            if isinstance(item, Fault):
                raise item
            records += make(item, origin)
        except Fault as fault:
            bad += 1
            first = first or f"{origin}: {fault}"
            if bad > skip:
                raise DataError(_too_many(f"{origin}: {fault}", bad, skip)) from fault
    if bad:
        LOG.warning(
            "%s: left out %d bad record(s) of at most %d (skip). The first: %s",
            source, bad, skip, first,
        )  # fmt: skip
    if not records:
        raise DataError(
            f"{source}: holds no usable record ({bad} bad ones left out). Give a source with at "
            "least one."
        )
    return records


def _too_many(fault: str, bad: int, skip: int) -> str:
    if skip == 0:
        return f"{fault}. Mend it, or set skip: N to leave up to N bad records out."
    return (
        f"{fault}. This is bad record {bad}, and skip: {skip} allows {skip}. Mend the data, "
        "check that the format is right, or raise skip."
    )


def gather_rows(
    items: Iterable[tuple[str, dict[str, Any] | Fault]], config: RecordConfig, source: str
) -> list[Record]:
    """Make records of objects with a source's format, fields and skip."""

    def make(value: dict[str, Any], origin: str) -> list[Record]:
        return parse(Row(value, origin, config.fields), config.format)

    return gather(items, make, config.skip, source)


def file_items(path: str) -> Iterable[tuple[str, dict[str, Any] | Fault]]:
    """Yield the objects of a JSON file, each with its origin ``file:line``."""
    for line, value in read_objects(Path(path).expanduser()):
        yield f"{path}:{line}", value
