"""The report of a run: one HTML page that needs nothing but a browser.

Styles, charts and the few lines of script are inside the page; it fetches nothing. What a
run directory holds is described in `fairlead.report.load`.
"""

from __future__ import annotations

from pathlib import Path

from fairlead.errors import ConfigError
from fairlead.metrics import replace_text
from fairlead.report.load import load_run
from fairlead.report.page import render

__all__ = ["write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write a run's report.

    Args:
        run: The run's directory; the run may still be going on, or have failed.
        out: The page to write; default ``report.html`` in the run's directory.

    Returns:
        The path of the page.

    Raises:
        ConfigError: When the directory holds no run, or the page cannot be written.
    """
    page = render(load_run(run))
    path = run / "report.html" if out is None else out
    if path.is_dir():
        raise ConfigError(f"the report cannot be written to {path}, a directory; give a file name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page)
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {path}: {error}. Give another file with --out."
        ) from error
    return path
