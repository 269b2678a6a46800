"""The data source ``mixture``: several sources in given proportions."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import overload

from pydantic import Field

from fairlead.config import Config, DataSourceSpec
from fairlead.errors import DataError
from fairlead.records import Record


class Part(Config):
    """One source of a mixture.

    Attributes:
        source: The data source.
        weight: Its share, relative to the other weights.
    """

    source: DataSourceSpec
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class MixtureConfig(Config):
    """Settings of ``mixture``.

    Attributes:
        sources: The sources and their weights.
        size: Records of the mixture; null: as many as the sources have together. A source
            that runs out begins again.
    """

    sources: list[Part] = Field(min_length=1)
    size: int | None = Field(default=None, ge=1)


class MixtureSource:
    """Mixes sources record by record: which one is a pure function of its index.

    Among the first n records, for every n, each source has its share to within one record.
    """

    Config = MixtureConfig

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config

    def load(self) -> Sequence[Record]:
        """Load every source and mix them.

        Raises:
            DataError: When a source cannot be read or is empty.
        """
        loaded: list[Sequence[Record]] = []
        for number, part in enumerate(self.config.sources):
            records = part.source.build().load()
            if not len(records):
                raise DataError(
                    f"mixture: sources[{number}] ({part.source.name}) is empty. Give a source "
                    "with records, or take it out."
                )
            loaded.append(records)
        size = self.config.size or sum(len(records) for records in loaded)
        return Mixture(loaded, [part.weight for part in self.config.sources], size)


class Mixture(Sequence[Record]):
    """The mixed records; holds which source each index takes, and reads on access."""

    def __init__(
        self, sources: Sequence[Sequence[Record]], weights: Sequence[float], size: int
    ) -> None:
        self._sources = sources
        self._choices, self._turns = schedule(weights, size)

    def __len__(self) -> int:
        return len(self._choices)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        source = self._sources[self._choices[index]]
        return source[self._turns[index] % len(source)]


def schedule(weights: Sequence[float], size: int) -> tuple[array[int], array[int]]:
    """Say for each index which source it takes, and that source's how many-th record.

    A source with share w owns its j-th record (from 0) to a slot no earlier than
    ``floor(j / w)`` and before ``ceil((j + 1) / w)``, which keeps it within one record of
    its share at every point. Taking the earliest deadline among those due always meets
    every deadline, as the shares add up to 1. Integers throughout, so that no rounding
    differs between machines.
    """
    shares = [Fraction(weight) for weight in weights]
    total = sum(shares)
    shares = [share / total for share in shares]
    taken = [0] * len(shares)
    choices, turns = array("L"), array("Q")
    for slot in range(size):
        best, earliest = -1, 0
        for number, share in enumerate(shares):
            up, down = share.numerator, share.denominator
            if taken[number] * down >= (slot + 1) * up:
                continue  # not due: its share up to and with this slot is used up
            deadline = -(-(taken[number] + 1) * down // up)
            if best < 0 or deadline < earliest:
                best, earliest = number, deadline
        choices.append(best)
        turns.append(taken[best])
        taken[best] += 1
    return choices, turns
