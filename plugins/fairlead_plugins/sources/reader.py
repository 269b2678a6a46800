"""From the bytes of a file to JSON objects with their line numbers.

The project has a reader of its own because a fault in a data file must be found, named by
file and line, and (where the user allows it) left out; general readers stop at the first.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import Any

from fairlead.errors import DataError
from fairlead_plugins.sources.row import Fault, show

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Read a file of JSON objects: one a line, or one JSON array of them.

    Args:
        path: The file, plain or gzip, UTF-8 with or without a byte order mark. Blank lines
            are passed over.

    Yields:
        Line number (from 1) and the object, or the fault that line has. In an array the
        line is where the object begins.

    Raises:
        DataError: When the file as a whole cannot be read: it is missing, empty, cut off,
            or an array with broken syntax, behind which nothing can be found again.
    """
    data = read_bytes(path)
    head = data.lstrip(b" \t\r\n")[:1]
    if not head:
        raise DataError(
            f"{path}: the file is empty. Give a file of JSON objects, one a line or in an array."
        )
    yield from _array(data, path) if head == b"[" else _lines(data)


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked when its first bytes say that it is gzip.

    Raises:
        DataError: When it is missing, unreadable or cut off.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file (looked from {Path.cwd()}). Give the path of a data "
            "file, absolute or relative to where fairlead is started."
        ) from error
    except IsADirectoryError as error:
        raise DataError(
            f"{path}: is a directory, and one file is needed. Give a file in it; the data "
            "sources 'text' and 'datasets' take directories."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}. Give a file that can be.") from error
    if data[:2] == GZIP_MAGIC:
        data = _unpack(data, path)
    return data.removeprefix(codecs.BOM_UTF8)


def _unpack(data: bytes, path: Path) -> bytes:
    unpacked = bytearray()
    try:
        with GzipFile(fileobj=io.BytesIO(data)) as stream:
            # read1, not read: what was unpacked before a fault tells the line of the fault.
            while chunk := stream.read1(_CHUNK):
                unpacked += chunk
    except (EOFError, BadGzipFile, zlib.error) as error:
        line = unpacked.count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: the gzip data is cut off or damaged here ({error}); "
            f"{line - 1} whole lines come before. Fetch the file again: a gzip file must be "
            "complete."
        ) from error
    return bytes(unpacked)


def decode(data: bytes, first_line: int = 1) -> str | Fault:
    """Decode UTF-8; a fault says which line (counted from ``first_line``) and which byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        return Fault(
            f"not valid UTF-8: byte {data[error.start]:#04x} in line {line}; the text must be "
            "UTF-8 (convert it with iconv -t utf-8)"
        )


def _lines(data: bytes) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    # Cut at \n alone: str.splitlines would also cut at U+2028, which JSON allows in strings.
    for number, raw in enumerate(io.BytesIO(data), 1):
        if raw.strip():
            yield number, _parse_line(raw, number)


def _parse_line(raw: bytes, number: int) -> dict[str, Any] | Fault:
    text = decode(raw, number)
    if isinstance(text, Fault):
        return text
    try:
        return _as_object(json.loads(text.rstrip("\r\n")))
    except json.JSONDecodeError as error:
        return Fault(
            f"broken JSON: {error.msg} (column {error.colno}) in {show(text.strip())}; a line "
            "must be one whole JSON object"
        )
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        return Fault(f"JSON that Python cannot hold: {error}")


def _as_object(value: Any) -> dict[str, Any] | Fault:
    if isinstance(value, dict):
        return value
    return Fault(f"{show(value)} is not a JSON object; a record is one, such as {{...}}")


def _array(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    text = decode(data)
    if isinstance(text, Fault):
        raise DataError(f"{path}: {text}.")
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _past_space(text, text.index("[") + 1)
    if text[position : position + 1] != "]":
        while True:
            line += text.count("\n", counted, position)
            counted = position
            try:
                value, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                raise _broken_array(path, text, position, error) from error
            yield line, _as_object(value)
            position = _past_space(text, position)
            if text[position : position + 1] != ",":
                break
            position = _past_space(text, position + 1)
    if text[position : position + 1] != "]":
        raise _broken_array(path, text, position, "expected ',' or ']'")
    position = _past_space(text, position + 1)
    if position < len(text):
        raise _broken_array(path, text, position, "there is more behind the array's end")


def _past_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _broken_array(path: Path, text: str, position: int, cause: object) -> DataError:
    if isinstance(cause, json.JSONDecodeError):
        position, cause = cause.pos, cause.msg
    line = text.count("\n", 0, position) + 1
    return DataError(
        f"{path}:{line}: broken JSON: {cause}. The file begins with '[' and so must be one "
        "whole array of objects. Mend it, or give one object a line, where skip can leave "
        "bad lines out."
    )
