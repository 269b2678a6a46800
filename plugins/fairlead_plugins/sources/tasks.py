"""The data source ``tasks``: instructions with answers, as in self-instruct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairlead.records import Record
from fairlead_plugins.sources.gather import SkipConfig, file_items, gather
from fairlead_plugins.sources.parse import parse
from fairlead_plugins.sources.row import Row


class TasksConfig(SkipConfig):
    """Settings of ``tasks``.

    Attributes:
        path: Objects with ``instruction`` and ``instances`` (or ``input`` and ``output``);
            JSONL or JSON, plain or gzip.
    """

    path: str


class TasksSource:
    """Reads tasks, one demonstration an instance; ``jsonl`` with ``format: tasks``."""

    Config = TasksConfig

    def __init__(self, config: TasksConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Read the file.

        Raises:
            DataError: When the file or one record more than ``skip`` cannot be used.
        """
        path = self.config.path
        return gather(file_items(path), _make, self.config.skip, path)


def _make(value: dict[str, Any], origin: str) -> list[Record]:
    return parse(Row(value, origin), "tasks")
