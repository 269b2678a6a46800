"""The data source ``hh``: preference pairs as transcripts, as in Anthropic's HH-RLHF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairlead.records import Record
from fairlead_plugins.sources.gather import SkipConfig, file_items, gather
from fairlead_plugins.sources.parse import parse_hh
from fairlead_plugins.sources.row import Row


class HhConfig(SkipConfig):
    r"""Settings of ``hh``.

    Attributes:
        path: Objects with ``chosen`` and ``rejected``, each a transcript such as
            ``"\n\nHuman: ...\n\nAssistant: ..."``; JSONL or JSON, plain or gzip.
    """

    path: str


class HhSource:
    """Reads transcript pairs whose turns agree up to the last reply, as comparisons."""

    Config = HhConfig

    def __init__(self, config: HhConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Read the file.

        Raises:
            DataError: When the file or one record more than ``skip`` cannot be used.
        """
        path = self.config.path
        return gather(file_items(path), _make, self.config.skip, path)


def _make(value: dict[str, Any], origin: str) -> list[Record]:
    return parse_hh(Row(value, origin))
