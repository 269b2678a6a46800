"""What several commands print: marked samples, warnings of the engine's log, JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fairlead.ui import Display

LONGEST_PIECE = 1200
"""Characters of one piece of a sample that are shown; its middle is left out beyond that."""


def print_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def marked(pieces: Sequence[tuple[str, bool]], *, plain: bool) -> str:
    """Return a sample with what is trained on marked.

    Args:
        pieces: Text, and whether it is trained on.
        plain: Mark with ``[[ ]]`` instead of bold and underlined letters.
    """
    from fairlead.ui import printable

    shown = []
    for text, trained in pieces:
        clean = printable(_shorten(text))
        if trained and clean:
            clean = f"[[{clean}]]" if plain else click.style(clean, bold=True, underline=True)
        shown.append(clean)
    return "".join(shown)


def _shorten(text: str) -> str:
    if len(text) <= LONGEST_PIECE:
        return text
    half = LONGEST_PIECE // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters) ... {text[-half:]}"


def is_plain() -> bool:
    """Whether stdout is a file or a pipe, where letters have no style."""
    return not sys.stdout.isatty()


class _Forward(logging.Handler):
    """Hands the engine's log records on to the display."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        self.display.warn(record.getMessage())


def show_log(display: Display) -> None:
    """Show the engine's logged warnings, such as a checkpoint that was left aside."""
    log = logging.getLogger("fairlead")
    for handler in [h for h in log.handlers if isinstance(h, _Forward)]:
        log.removeHandler(handler)
    log.addHandler(_Forward(display))
