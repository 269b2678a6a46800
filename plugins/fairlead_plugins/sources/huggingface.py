"""The data source ``datasets``: whatever Hugging Face's ``datasets`` library loads."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.errors import DataError, listing
from fairlead.records import Record
from fairlead_plugins.sources.gather import RecordConfig, gather_rows

BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {}),
    ".csv.gz": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".json.gz": ("json", {}),
    ".jsonl": ("json", {}),
    ".jsonl.gz": ("json", {}),
    ".arrow": ("arrow", {}),
}
"""File ending to the library's name for the format, and what else it must be told."""


class DatasetsConfig(RecordConfig):
    """Settings of ``datasets``.

    Attributes:
        path: A directory written by ``save_to_disk``, a Parquet, CSV, TSV, JSON or Arrow
            file, a directory of such files, or a name on the Hugging Face hub.
        split: Which split, such as ``train``; may be left out where there is only one.
        config_name: Which configuration of a hub data set that has several.
    """

    path: str
    split: str | None = None
    config_name: str | None = None


class DatasetsSource:
    """Reads the rows of a data set as `jsonl` reads objects."""

    Config = DatasetsConfig

    def __init__(self, config: DatasetsConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Load the data set and read its rows; an origin is ``path:N``, the first row 1.

        Raises:
            DataError: When the library is not installed, the data set cannot be loaded, or
                one row more than ``skip`` cannot be used.
        """
        rows = _one_split(_load(self.config), self.config)
        return gather_rows(_items(rows, self.config.path), self.config, self.config.path)


def _items(rows: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", dict(row)


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"the data source 'datasets' needs the datasets library, which cannot be imported "
            f"({error}). Install it with: pip install 'fairlead[data]'. JSON files can be read "
            "without it, by the data source 'jsonl'."
        ) from error


def _load(config: DatasetsConfig) -> Any:
    library = _library()
    place = Path(config.path).expanduser()
    ending = next((e for e in BUILDERS if place.name.lower().endswith(e)), None)
    if not place.exists() and ending is not None:
        raise DataError(
            f"{config.path}: there is no such file (looked from {Path.cwd()}). Give a data file, "
            "a directory written by save_to_disk, or a hub name."
        )
    if place.is_file() and ending is None:
        raise DataError(
            f"{config.path}: the ending of this file is none that can be read. Endings: "
            f"{listing(BUILDERS)}. Rename or convert it."
        )
    try:
        return _call_library(library, config, place, ending)
    except Exception as error:  # the library raises many kinds, those of its file systems too
        raise DataError(
            f"{config.path}: the datasets library cannot load it"
            f"{f' (split {config.split!r})' if config.split else ''}: "
            f"{type(error).__name__}: {error}. Give a data file ({listing(BUILDERS)}), a directory "
            "written by save_to_disk, or a hub name that can be reached, with its split and "
            "config_name."
        ) from error


def _call_library(library: Any, config: DatasetsConfig, place: Path, ending: str | None) -> Any:
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        return library.load_from_disk(str(place))
    if place.is_file() and ending is not None:
        builder, options = BUILDERS[ending]
        # A single file is one split, which the library calls train whatever it holds.
        return library.load_dataset(
            builder, data_files=str(place), split=config.split or "train", **options
        )
    name = str(place) if place.is_dir() else config.path
    return library.load_dataset(name, config.config_name, split=config.split)


def _one_split(loaded: Any, config: DatasetsConfig) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    splits = [str(name) for name in loaded]
    if config.split is None and len(splits) == 1:
        return loaded[splits[0]]
    if config.split not in splits:
        given = "no split is given" if config.split is None else f"no split {config.split!r}"
        raise DataError(f"{config.path}: {given}. Set split to one of: {listing(splits)}.")
    return loaded[config.split]
