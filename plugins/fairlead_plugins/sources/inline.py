"""The data source ``inline``: records written into the configuration itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from fairlead.records import Record
from fairlead_plugins.sources.gather import RecordConfig, gather_rows


class InlineConfig(RecordConfig):
    """Settings of ``inline``.

    Attributes:
        records: The records, as they would stand in a JSONL file.
    """

    records: list[dict[str, Any]] = Field(min_length=1)


class InlineSource:
    """Takes its records from the configuration, for tests and tiny recipes."""

    Config = InlineConfig

    def __init__(self, config: InlineConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Return the records; an origin is ``inline:N``, the first being 1.

        Raises:
            DataError: When one record more than ``skip`` cannot be used.
        """
        items = ((f"inline:{i}", value) for i, value in enumerate(self.config.records, 1))
        return gather_rows(items, self.config, "inline")
