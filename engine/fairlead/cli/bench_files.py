"""The files that ``fairlead bench`` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.errors import ConfigError
from fairlead.metrics import replace_text
from fairlead_kernels.bench import COLUMNS, Row

SCHEMA = 1


@dataclass
class Files:
    """Where results go.

    Attributes:
        json: Everything.
        csv: The rows.
        plot: A page with charts.
        written: What has been written.
    """

    json: Path | None
    csv: Path | None
    plot: Path | None
    written: list[Path] = field(default_factory=list)

    @classmethod
    def checked(cls, json_file: str | None, csv_file: str | None, plot: str | None) -> Files:
        """Make sure, before anything is measured, that the files can be written.

        Directories on the way are made.

        Raises:
            ConfigError: When one cannot.
        """
        if plot is not None and not plot.endswith((".html", ".htm")):
            raise ConfigError(
                f"--plot {plot}: the charts are a page; give a name that ends in .html."
            )
        options = {"--json": json_file, "--csv": csv_file, "--plot": plot}
        for option, name in options.items():
            if name is None:
                continue
            path = Path(name)
            blocked = next((one for one in path.parents if one.is_file()), None)
            if blocked is not None:
                raise ConfigError(
                    f"{option} {name}: it cannot be written: {blocked} is a file, not a directory. "
                    "Give another file."
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                existed = path.exists()
                path.open("a", encoding="utf-8").close()
                if not existed:
                    path.unlink()
            except OSError as error:
                raise ConfigError(
                    f"{option} {name}: it cannot be written: {error.strerror}. Give another file."
                ) from error
        paths = (None if name is None else Path(name) for name in options.values())
        return cls(next(paths), next(paths), next(paths))

    def write(
        self, rows: Sequence[Row], machines: Sequence[dict[str, Any]], facts: dict[str, Any]
    ) -> None:
        """Write every file that was asked for.

        Args:
            rows: What was measured.
            machines: The limits of the devices it was measured on.
            facts: With what, when and how.
        """
        texts: list[tuple[Path | None, str]] = []
        if self.json is not None:
            data = {"schema": SCHEMA, "provenance": facts, "machines": machines}
            listed = {**data, "rows": [row.as_dict() for row in rows]}
            texts.append((self.json, json.dumps(listed, indent=1, ensure_ascii=False) + "\n"))
        if self.csv is not None:
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerows([COLUMNS, *(row.as_cells() for row in rows)])
            texts.append((self.csv, table.getvalue()))
        if self.plot is not None:
            from fairlead.report.benchmark import render_benchmark

            texts.append((self.plot, render_benchmark(rows, machines, facts)))
        for path, text in texts:
            if path is not None:
                replace_text(path, text)
                self.written.append(path)
