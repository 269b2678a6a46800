"""The data source ``jsonl``: a file of JSON objects."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.records import Record
from fairlead_plugins.sources.gather import RecordConfig, file_items, gather_rows


class JsonlConfig(RecordConfig):
    """Settings of ``jsonl``.

    Attributes:
        path: JSON objects, one a line or in one array; plain or gzip.
    """

    path: str


class JsonlSource:
    """Reads JSONL or a JSON array, in any of the usual formats."""

    Config = JsonlConfig

    def __init__(self, config: JsonlConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Read the file.

        Raises:
            DataError: When the file or one record more than ``skip`` cannot be used.
        """
        return gather_rows(file_items(self.config.path), self.config, self.config.path)
