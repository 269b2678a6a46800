"""How sure a measurement is: intervals that resample clusters, and agreement beyond chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Counts of this many numbers are held at a time: 32 MiB, whatever the number of clusters.
_HELD = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A number and where it may lie.

    Attributes:
        value: The statistic of the whole sample.
        low: Lower end; ``-inf`` where the sample does not say.
        high: Upper end; ``inf`` where the sample does not say.
    """

    value: float
    low: float
    high: float

    def metrics(self, name: str) -> dict[str, float]:
        """Return ``NAME``, ``NAME_low`` and ``NAME_high``; ends that are not known are left out."""
        found = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return {key: number for key, number in found.items() if math.isfinite(number)}


def cluster_bootstrap(
    columns: Sequence[Sequence[float]],
    clusters: Sequence[str] | None,
    statistic: Callable[[Floats], Floats],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of means with its percentile interval, resampling whole clusters.

    One draw takes as many clusters as there are, with replacement, and forms every column's mean
    over the items drawn; an item weighs the same whatever its cluster's size. The columns share
    the draws, so that a statistic of several (a difference, a ratio) is a paired one.

    A draw whose statistic is infinite (a ratio with 0 below) counts as infinite. One whose
    statistic is NaN (0 / 0) says nothing, and counts as ``-inf`` below and as ``inf`` above: it
    can widen the interval and never narrow it. With one cluster nothing says how clusters
    differ, and the interval is the whole line.

    Args:
        columns: m lists of n outcomes each, of the same items in the same order.
        clusters: For each item the name of its cluster; None: each item is its own.
        statistic: Takes means ``[k, m]`` and returns k numbers; called with k = 1 for the value.
        level: Share of the draws between low and high, within (0, 1).
        draws: How many resamples, at least 1.
        seed: Of the draws.

    Raises:
        ValueError: When there are no columns or items, columns or clusters differ in length, an
            outcome is NaN, `level` or `draws` is out of range, or `statistic` does not return
            one number for each row.
    """
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError(
            f"level={level} and draws={draws}: level must be between 0 and 1, draws at least 1."
        )
    table = _table(columns)
    owners = _numbered(clusters, table.shape[1])
    count = int(owners.max()) + 1
    rows = [np.bincount(owners, weights=row, minlength=count) for row in table]
    sums: Floats = np.stack(rows).astype(np.float64)
    sizes: Floats = np.bincount(owners, minlength=count).astype(np.float64)
    value = float(_apply(statistic, table.mean(axis=1)[None, :])[0])
    if count == 1:
        return Interval(value, -math.inf, math.inf)
    found = _apply(statistic, _resampled_means(sums, sizes, draws, seed))
    unknown = np.isnan(found)
    tail = (1.0 - level) / 2.0
    # Order statistics, not interpolated: between a number and infinity there is nothing.
    low = np.quantile(np.where(unknown, -np.inf, found), tail, method="lower")
    high = np.quantile(np.where(unknown, np.inf, found), 1.0 - tail, method="higher")
    return Interval(value, float(low), float(high))


def mean_interval(
    outcomes: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a mean with its percentile interval; see `cluster_bootstrap`."""
    return cluster_bootstrap(
        [outcomes], clusters, lambda means: means[:, 0], level=level, draws=draws, seed=seed
    )


def fleiss_kappa(counts: Sequence[Sequence[int]] | NDArray[Any]) -> float:
    """Return Fleiss' kappa: agreement of several raters beyond what chance would give.

    An item's agreement is the share of its pairs of ratings that are equal, the observed
    agreement their mean over the items, and that of chance the sum of the squared shares which
    the categories have of all ratings (Fleiss 1971). Items may have different numbers of ratings.

    Args:
        counts: ``[items, categories]``, how many ratings put an item into a category.

    Returns:
        1 for full agreement, 0 for that of chance; NaN when every rating names one category,
        where chance agrees fully too.

    Raises:
        ValueError: When the table is empty, holds what is no count, or has an item with fewer
            than two ratings.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(
            f"counts have the shape {list(table.shape)}; give [items, categories], none of them 0."
        )
    if (table < 0).any() or (table != np.round(table)).any():
        raise ValueError("counts hold a number that is negative or not whole; give counts.")
    ratings = table.sum(axis=1)
    if (ratings < 2).any():
        item = int((ratings < 2).argmax())
        raise ValueError(
            f"item {item} has {int(ratings[item])} ratings, and agreement takes two; leave such "
            "items out."
        )
    observed = float(((table * (table - 1)).sum(axis=1) / (ratings * (ratings - 1))).mean())
    chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return (observed - chance) / (1.0 - chance) if chance < 1.0 else math.nan


def _table(columns: Sequence[Sequence[float]]) -> Floats:
    """Return the columns as ``[m, n]``, checked."""
    lengths = [len(column) for column in columns]
    if not lengths or len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"the columns have {lengths} outcomes; give at least one column, and the same number "
            "of outcomes, at least one, in each."
        )
    table = np.array([list(column) for column in columns], dtype=np.float64)
    missing = np.isnan(table)
    if missing.any():
        column, item = (int(index) for index in np.argwhere(missing)[0])
        raise ValueError(
            f"{int(missing.sum())} outcomes are NaN, the first that of item {item} in column "
            f"{column}; leave items without an outcome out of every column."
        )
    return table


def _numbered(clusters: Sequence[str] | None, items: int) -> NDArray[np.int64]:
    """Return each item's cluster as a number, in the order in which they come."""
    if clusters is None:
        return np.arange(items)
    if len(clusters) != items:
        raise ValueError(
            f"there are {len(clusters)} cluster names for {items} items; give one for each."
        )
    numbers = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[name] for name in clusters], dtype=np.int64)


def _resampled_means(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    """Return the means of each draw, ``[draws, m]``; the numbers do not depend on the chunks."""
    generator = np.random.default_rng(seed)
    count = len(sizes)
    shares = np.full(count, 1.0 / count)
    chunk = max(1, _HELD // count)
    found = []
    for start in range(0, draws, chunk):
        times = generator.multinomial(count, shares, size=min(chunk, draws - start))
        found.append((times @ sums.T) / (times @ sizes)[:, None])
    return np.concatenate(found)


def _apply(statistic: Callable[[Floats], Floats], means: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(statistic(means), dtype=np.float64)
    if found.shape != (len(means),):
        raise ValueError(
            f"the statistic returned the shape {list(found.shape)} for means of shape "
            f"{list(means.shape)}; it must return one number for each row, [{len(means)}]."
        )
    return found
