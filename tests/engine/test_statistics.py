"""Intervals that resample clusters, and Fleiss' kappa: against examples worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import statistics
from fairlead.statistics import Interval, cluster_bootstrap, fleiss_kappa, mean_interval

outcomes_lists = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
items = st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from("abcde")), min_size=1, max_size=30)


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-6)


# --- the bootstrap --------------------------------------------------------------------------


def test_whole_clusters_are_drawn() -> None:
    """Of two clusters of four equal items a quarter of the draws is all ones, a quarter all zeros.

    Drawn by item, P(all of 8 zero) is 1/256: less than the 2.5 % below the interval.
    """
    outcomes = [1.0] * 4 + [0.0] * 4
    clustered = mean_interval(outcomes, ["a"] * 4 + ["b"] * 4)
    assert clustered == Interval(0.5, 0.0, 1.0)
    alone = mean_interval(outcomes)
    assert alone.value == 0.5
    assert 0.0 < alone.low < 0.5 < alone.high < 1.0


def test_an_item_weighs_the_same_in_a_large_cluster_and_in_a_small_one() -> None:
    """Clusters (1, 1) and (0): half of the draws holds both, with the mean 2/3, not 1/2.

    A quarter of the draws lies below and a quarter above, so the middle 40 % are 2/3.
    """
    outcomes, clusters = [1.0, 1.0, 0.0], ["a", "a", "b"]
    found = mean_interval(outcomes, clusters, level=0.4)
    assert (found.value, found.low, found.high) == (near(2 / 3), near(2 / 3), near(2 / 3))
    # The large one twice is four items, all ones: the mean is over the items drawn.
    wide = mean_interval(outcomes, clusters)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_the_columns_share_the_draws() -> None:
    """A difference of 1 on every item is 1 in every draw, however much the items differ."""
    first = [0.0, 10.0, -4.0, 7.0, 100.0]
    second = [value + 1.0 for value in first]
    found = cluster_bootstrap([first, second], None, lambda means: means[:, 1] - means[:, 0])
    assert (found.value, found.low, found.high) == (near(1.0), near(1.0), near(1.0))


def test_a_ratio_with_zero_below_reaches_to_infinity() -> None:
    """Items (1, 1) and (1, 0): the second alone, a quarter of the draws, has 1 / 0."""
    found = cluster_bootstrap([[1.0, 1.0], [1.0, 0.0]], None, lambda m: m[:, 0] / m[:, 1])
    # both items: 1 / 0.5; the first alone: 1 / 1
    assert found == Interval(2.0, 1.0, math.inf)


def test_a_draw_that_says_nothing_widens_the_interval_on_both_sides() -> None:
    """Items (1, 1) and (0, 0): the second alone is 0 / 0, a quarter of the draws."""
    found = cluster_bootstrap([[1.0, 0.0], [1.0, 0.0]], None, lambda m: m[:, 0] / m[:, 1])
    assert found == Interval(1.0, -math.inf, math.inf)


def test_one_cluster_says_nothing_of_how_clusters_differ() -> None:
    found = mean_interval([0.0, 1.0], ["a", "a"])
    assert found == Interval(0.5, -math.inf, math.inf)
    assert found.metrics("eval/x") == {"eval/x": 0.5}


def test_an_intervals_metrics() -> None:
    found = Interval(0.5, 0.25, 0.75).metrics("eval/x")
    assert found == {"eval/x": 0.5, "eval/x_low": 0.25, "eval/x_high": 0.75}


def test_the_level_is_the_share_between_the_ends() -> None:
    """The mean of n draws of 0..99 is about normal: +-1.645 and +-1.96 standard errors."""
    outcomes = [float(value) for value in range(100)]
    error = np.std(outcomes) / 10
    for level, width in ((0.9, 1.645), (0.95, 1.960)):
        found = mean_interval(outcomes, level=level, draws=20000)
        assert found.high - found.low == pytest.approx(2 * width * error, rel=0.03)


def test_the_numbers_do_not_depend_on_how_the_draws_are_chunked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = [float(value**2) for value in range(20)]
    whole = mean_interval(outcomes, draws=500)
    monkeypatch.setattr(statistics, "_HELD", 70)  # 3 draws of 20 clusters at a time
    assert mean_interval(outcomes, draws=500) == whole
    assert mean_interval(outcomes, draws=500, seed=1) != whole


@pytest.mark.parametrize(
    ("columns", "clusters", "message"),
    [
        ([], None, r"columns have \[\] outcomes"),
        ([[]], None, r"columns have \[0\] outcomes"),
        ([[1.0, 2.0], [1.0]], None, r"columns have \[2, 1\] outcomes"),
        ([[1.0, 2.0], [1.0, math.nan]], None, "1 outcomes are NaN, the first that of item 1 in co"),
        ([[1.0, 2.0]], ["a"], "1 cluster names for 2 items"),
    ],
)
def test_unusable_outcomes_are_an_error(columns: Any, clusters: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(columns, clusters, lambda means: means[:, 0])


def test_other_bad_arguments_are_an_error() -> None:
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        mean_interval([1.0], level=95)
    with pytest.raises(ValueError, match="draws at least 1"):
        mean_interval([1.0], draws=0)
    with pytest.raises(ValueError, match="must return one number for each row"):
        cluster_bootstrap([[1.0, 2.0]], None, lambda means: means)


@given(pairs=items, seed=st.integers(0, 2**31 - 1))
def test_the_interval_of_a_mean_holds_the_mean(pairs: list[tuple[float, str]], seed: int) -> None:
    outcomes, clusters = [value for value, _ in pairs], [name for _, name in pairs]
    found = mean_interval(outcomes, clusters, draws=200, seed=seed)
    assert found.value == near(sum(outcomes) / len(outcomes))
    assert found.low - 1e-6 <= found.value <= found.high + 1e-6


@given(outcomes=outcomes_lists, seed=st.integers(0, 2**31 - 1))
def test_clusters_of_one_are_no_clusters(outcomes: list[float], seed: int) -> None:
    names = [f"item {index}" for index in range(len(outcomes))]
    alone = mean_interval(outcomes, draws=50, seed=seed)
    assert mean_interval(outcomes, names, draws=50, seed=seed) == alone


@given(pairs=items, data=st.data())
def test_the_order_of_the_items_leaves_the_value(
    pairs: list[tuple[float, str]], data: st.DataObject
) -> None:
    mixed = data.draw(st.permutations(pairs))
    before = mean_interval([value for value, _ in pairs], [name for _, name in pairs], draws=10)
    after = mean_interval([value for value, _ in mixed], [name for _, name in mixed], draws=10)
    assert after.value == near(before.value)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """30 clusters of 4 items that share most of their noise, 300 times; the truth is 0.

    A percentile interval of 30 clusters is a little narrow: 93 to 94 % is what to expect, with a
    standard error of 1.4 %. By item the variance is 1.25 / 120 and not (1 + 0.25 / 4) / 30: the
    interval is half as wide as it should be, and covers about 2/3.
    """
    random = np.random.default_rng(5)
    names = [str(cluster) for cluster in range(30) for _ in range(4)]
    covered = {"cluster": 0, "item": 0}
    for trial in range(300):
        shared = random.normal(size=30).repeat(4)
        outcomes = (shared + 0.5 * random.normal(size=120)).tolist()
        for kind, clusters in (("cluster", names), ("item", None)):
            found = mean_interval(outcomes, clusters, draws=400, seed=trial)
            covered[kind] += found.low <= 0.0 <= found.high
    assert 0.89 <= covered["cluster"] / 300 <= 0.98
    assert 0.55 <= covered["item"] / 300 <= 0.78


# --- Fleiss' kappa --------------------------------------------------------------------------

PUBLISHED = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
"""The well-known worked example: 10 subjects, 14 raters, 5 categories; kappa 0.210."""


def test_fleiss_kappa_of_the_published_example() -> None:
    assert round(fleiss_kappa(PUBLISHED), 3) == 0.210
    assert fleiss_kappa(np.array(PUBLISHED)) == fleiss_kappa(PUBLISHED)


# fmt: off
DIAGNOSES = [
    "444444", "222555", "233335", "555555", "222444", "113333",
    "333355", "113334", "114444", "555555", "144444", "124444",
    "222333", "144444", "224445", "333335", "111455", "111112",
    "224444", "133555", "555555", "244444", "224555", "114444",
    "144445", "222224", "111155", "224444", "133333", "555555",
]
# fmt: on
"""Fleiss (1971), table 1: 30 patients, 6 psychiatrists each, 5 diagnoses; kappa 0.430."""


def test_fleiss_kappa_of_the_paper_that_it_is_named_after() -> None:
    counts = [[six.count(one) for one in "12345"] for six in DIAGNOSES]
    # The paper's shares: 0.144, 0.144, 0.167, 0.306, 0.239 of 180 diagnoses.
    assert np.sum(counts, axis=0).tolist() == [26, 26, 30, 55, 43]
    assert round(fleiss_kappa(counts), 3) == 0.430


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [
        # Observed (1 + 0) / 2; chance (3/4)^2 + (1/4)^2 = 5/8; (1/2 - 5/8) / (3/8).
        ([[2, 0], [1, 1]], -1 / 3),
        # Three raters: observed (1 + 1/3) / 2 = 2/3; shares 4/6 and 2/6, chance 5/9.
        ([[3, 0], [1, 2]], (2 / 3 - 5 / 9) / (4 / 9)),
        # Different numbers of raters: all agree.
        ([[2, 0, 0], [0, 3, 0]], 1.0),
        # Observed (1 + 1/3) / 2 again; of 5 ratings 3 and 2, chance 13/25.
        ([[2, 0], [1, 2]], (2 / 3 - 13 / 25) / (12 / 25)),
    ],
)
def test_fleiss_kappa_by_hand(counts: list[list[int]], kappa: float) -> None:
    assert fleiss_kappa(counts) == pytest.approx(kappa)


def test_fleiss_kappa_of_one_category_says_nothing() -> None:
    assert math.isnan(fleiss_kappa([[2, 0], [3, 0]]))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "shape"),
        ([1, 2], r"shape \[2\]"),
        ([[2, 0], [1, 0]], "item 1 has 1 ratings"),
        ([[3, -1]], "negative or not whole"),
        ([[1.5, 1.5]], "negative or not whole"),
    ],
)
def test_what_is_no_table_of_counts_is_an_error(counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fleiss_kappa(counts)
