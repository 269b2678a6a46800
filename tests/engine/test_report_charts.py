"""The report's line charts, and its numbers for people."""

from __future__ import annotations

import math
import re

import pytest

from fairlead.report import axes, charts
from fairlead.report.charts import CalibrationBin, Series, line_chart
from fairlead.report.text import duration, figure, moment, percent, with_error

# --- charts -----------------------------------------------------------------------------


def test_ticks_are_round_and_inside_the_axis() -> None:
    axis = axes.make_axis(0.0, 1.03, 0.0, 100.0, 4)
    assert axis.ticks == (0.0, 0.5, 1.0)
    assert axis.at(axis.low) == 0.0
    assert axis.at(axis.high) == 100.0
    assert axes.tick_labels((0.0, 2.5, 5.0)) == ["0.0", "2.5", "5.0"]
    assert axes.tick_labels((-0.05, 0.0)) == ["\u22120.05", "0.00"]


@pytest.mark.parametrize(
    "values",
    [(0.0, 0.0), (5.0, 5.0), (-3.0, -3.0), (0.0, 5e-324), (1.0, 1.0 + 1e-15), (-1e99, 1e99)],
)
def test_an_axis_copes_with_any_range(values: tuple[float, float]) -> None:
    svg = line_chart("t", [Series("a", list(enumerate(values)), smooth=True)])
    assert "nan" not in svg
    assert "inf" not in svg
    coordinates = re.findall(r"(-?[\d.]+),(-?[\d.]+)", svg)
    assert coordinates
    assert all(0 <= float(x) <= 340 and 0 <= float(y) <= 210 for x, y in coordinates)


def test_smoothing_keeps_a_straight_line_straight_to_its_ends() -> None:
    line = [(float(i), 3.0 - 0.5 * i) for i in range(50)]
    assert [y for _, y in charts.smoothed(line)] == pytest.approx([y for _, y in line])


def test_smoothing_does_not_end_on_the_last_noisy_point() -> None:
    noisy = [(float(i), (-1.0) ** i) for i in range(100)]
    assert max(abs(y) for _, y in charts.smoothed(noisy)) < 0.6


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[7777] = (7777.0, 9.0)
    points[3333] = (3333.0, -9.0)
    kept = charts.thin(points)
    assert len(kept) <= charts.MAX_POINTS + 2
    assert {points[0], points[-1], points[7777], points[3333]} <= set(kept)
    assert kept == sorted(kept)


def test_a_chart_of_nothing_is_no_chart() -> None:
    assert line_chart("t", []) == ""
    assert line_chart("t", [Series("a", [(1.0, math.nan)])]) == ""
    assert charts.calibration_chart([]) == ""


def test_a_calibration_bin_without_an_interval_has_no_bar() -> None:
    known, unknown = CalibrationBin(0.7, 0.8, 10, (0.5, 0.9)), CalibrationBin(0.9, 0.8, 10)
    assert charts.calibration_chart([known, unknown]).count('class="bar"') == 1


# --- numbers for people -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (3.14159, "3.142"),
        (-0.25, "\u22120.25"),
        (9.65e-6, "9.65e\u22126"),
        (12345.6, "12,346"),
        (math.nan, "not a number"),
        (math.inf, "infinite"),
    ],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_other_formats() -> None:
    assert percent(0.614) == "61\u202f%"
    assert percent(0.999) == "99.9\u202f%"
    assert [duration(s) for s in (None, 3.21, 59.6, 185, 7800)] == [
        "\u2013",
        "3.2 s",
        "1 min 0 s",
        "3 min 5 s",
        "2 h 10 min",
    ]
    assert moment("2026-08-01T12:30:00+0000") == "1 August 2026, 12:30 UTC"
    assert moment("yesterday") == "yesterday"
    assert with_error(1.2345, 0.123) == "1.23 \u00b1 0.12"
    assert with_error(1.2345, None) == "1.23"
