"""The data source ``text``: plain-text documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from fairlead.errors import DataError
from fairlead.records import Record, Text, Turn
from fairlead_plugins.sources.gather import SkipConfig, gather
from fairlead_plugins.sources.reader import decode, read_bytes
from fairlead_plugins.sources.row import Fault

SUFFIXES = (".txt", ".txt.gz")


class TextConfig(SkipConfig):
    r"""Settings of ``text``.

    Attributes:
        path: A UTF-8 text file (plain or gzip), a directory whose ``.txt`` and ``.txt.gz``
            files are read in the order of their names, subdirectories included, or a list
            of these.
        separator: What stands between documents in a file, such as ``"\n\n"``; null: a file
            is one document. Windows line ends are read as ``\n``; documents of nothing but
            whitespace are dropped.
    """

    path: str | list[str] = Field(min_length=1)
    separator: str | None = Field(default=None, min_length=1)


class TextSource:
    """Reads plain text for language modelling."""

    Config = TextConfig

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Read the files.

        Raises:
            DataError: When a file cannot be read, one document more than ``skip`` is not
                valid UTF-8, or there is no text at all.
        """
        given = self.config.path
        paths = [given] if isinstance(given, str) else given
        files = [file for path in paths for file in _files(path)]
        items = (item for file in files for item in _documents(file, self.config.separator))
        return gather(items, _make, self.config.skip, ", ".join(paths))


def _make(document: str, origin: str) -> list[Record]:
    if not document.strip():
        return []
    return [Text(turns=(Turn("user", document),), origin=origin)]


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    files = [p for p in place.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file()]
    if not files:
        raise DataError(
            f"{path}: the directory holds no {' or '.join(SUFFIXES)} file. Give one that does, or "
            "name the files."
        )
    return sorted(files, key=lambda file: file.as_posix())


def _documents(file: Path, separator: str | None) -> Iterator[tuple[str, str | Fault]]:
    data = read_bytes(file).replace(b"\r\n", b"\n")
    # Cut as bytes, so that a document that is not UTF-8 costs that document alone.
    mark = separator.encode() if separator is not None else None
    line = 1
    for piece in [data] if mark is None else data.split(mark):
        yield f"{file}:{line}", decode(piece, line)
        line += piece.count(b"\n") + (mark.count(b"\n") if mark else 0)
