"""Charts in a stage's own blocks: as long, as wide and in the order that the data are."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from fairlead.report import axes, charts
from fairlead.report.bars import bar_chart
from fairlead.report.block_view import render_blocks
from fairlead.report.blocks import Bar, Bars, Curve, Curves, Group, Table, Text


def drawing(html: str) -> ElementTree.Element:
    found = re.search(r"<svg[^>]*class=\"chart\".*?</svg>", html, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found[0])


def rectangles(svg: ElementTree.Element) -> list[tuple[float, float]]:
    """Return where each bar begins and how wide it is."""
    return [(float(one.get("x", "")), float(one.get("width", ""))) for one in svg.iter("rect")]


def path(svg: ElementTree.Element, kind: str) -> list[float]:
    """Return the numbers of the one path of a class."""
    (found,) = [one for one in svg.iter("path") if one.get("class") == kind]
    return [float(value) for value in re.findall(r"-?[\d.]+", found.get("d", ""))]


def bars(*values: float, **more: Any) -> Bars:
    return Bars((Group("g", tuple(Bar(f"n{i}", v) for i, v in enumerate(values))),), **more)


# --- bars -------------------------------------------------------------------------------


def test_a_bar_is_as_long_as_its_value() -> None:
    (x0, one), (x1, half), (x2, quarter) = rectangles(drawing(bar_chart("t", bars(1.0, 0.5, 0.25))))
    assert x0 == x1 == x2
    assert half == pytest.approx(one / 2, abs=0.15)
    assert quarter == pytest.approx(one / 4, abs=0.15)


def test_a_negative_bar_ends_where_a_positive_one_begins() -> None:
    svg = drawing(bar_chart("t", bars(-0.5, 0.25)))
    (x0, down), (x1, up) = rectangles(svg)
    assert x0 + down == pytest.approx(x1, abs=0.15)
    assert down == pytest.approx(2 * up, abs=0.2)
    assert path(svg, "zero")[0] == x1


def test_whiskers_and_the_reference_stand_at_their_values() -> None:
    """On an axis from 0 to 1 a bar of 0.5 is half of it, its interval a quarter and three."""
    bar = Bar("ppo", 0.5, low=0.25, high=0.75)
    svg = drawing(bar_chart("t", Bars((Group("g", (bar,)),), reference=0.5, low=0, high=1)))
    ((x, width),) = rectangles(svg)
    whisker = path(svg, "whisker")
    assert whisker[0] == pytest.approx(x + width / 2, abs=0.1)
    assert whisker[-3] == pytest.approx(x + width * 1.5, abs=0.1)
    assert path(svg, "ideal")[0] == pytest.approx(x + width, abs=0.1)


def test_an_interval_given_upside_down_or_by_half_is_drawn_still() -> None:
    spec = Bars((Group("g", (Bar("a", 1, low=2, high=0), Bar("b", 1, high=2))),))
    svg = drawing(bar_chart("t", spec))
    assert len([one for one in svg.iter("path") if one.get("class") == "whisker"]) == 2
    assert "a 1 (0 to 2), b 1 (1 to 2)" in (svg.findtext("desc") or "")


def test_data_beyond_the_range_asked_for_widens_it() -> None:
    svg = drawing(bar_chart("t", bars(2.0, -0.5, low=0, high=1)))
    names = [float(one.get("x", "")) for one in svg.iter("text") if one.text in ("n0", "n1")]
    assert len(names) == 2
    assert all(x > names[0] and x + width < 340 for x, width in rectangles(svg))


def test_a_bar_without_a_value_keeps_its_place_and_nothing_else() -> None:
    groups = (Group("g", (Bar("a", math.nan, low=-9, high=9), Bar("b", 1.0))),)
    svg = drawing(bar_chart("t", Bars(groups)))
    ((_, width),) = rectangles(svg)
    assert width > 200
    shown = [one.text for one in svg.iter("text")]
    assert shown[shown.index("a") + 1] == "\u2013"


def test_a_range_asked_for_is_where_the_axis_ends() -> None:
    svg = drawing(bar_chart("t", bars(0.5, low=0.4, high=0.6)))
    ((x, width),) = rectangles(svg)
    ticks = [path.get("d", "") for path in svg.iter("path") if path.get("class") == "grid"]
    first, last = (float(ticks[i][1:].split()[0]) for i in (0, -1))
    assert x == first
    assert x + width == pytest.approx((first + last) / 2, abs=0.15)


def test_a_name_has_one_colour_over_all_groups_and_a_key() -> None:
    groups = (
        Group("nll", (Bar("base", 1), Bar("ppo", 2))),
        Group("counting", (Bar("ptx", 3), Bar("ppo", 4), Bar("base", 5))),
    )
    html = render_blocks([Bars(groups)], "k")
    series = [g.get("class") for g in drawing(html).iter("g")]
    assert series == ["series s0", "series s1", "series s2", "series s1", "series s0"]
    keys = re.findall(r"class='swatch (s\d)'.*?</svg>(\w+)<", html)
    assert keys == [("s0", "base"), ("s1", "ppo"), ("s2", "ptx")]


def test_a_bar_is_named_beside_it_and_in_words() -> None:
    groups = (Group("nll", (Bar("base", 0.5), Bar("ppo", -0.25, -0.5, 0.0))),)
    svg = drawing(bar_chart("tax", Bars(groups, unit="nats", reference=0.1)))
    shown = [one.text for one in svg.iter("text")]
    for text in ("nll", "base", "0.5", "ppo", "\u22120.25", "nats"):
        assert text in shown
    assert svg.findtext("title") == "tax"
    assert svg.findtext("desc") == (
        "nll: base 0.5, ppo \u22120.25 (\u22120.5 to 0). Dashed line at 0.1."
    )


def test_where_there_is_one_series_the_groups_name_the_bars() -> None:
    spec = Bars((Group("sft", (Bar("win rate", 0.5),)), Group("ppo", (Bar("win rate", 0.7),))))
    shown = [one.text for one in drawing(bar_chart("t", spec)).iter("text")]
    assert {"sft", "ppo"} <= set(shown)
    assert "win rate" not in shown


def test_a_long_name_is_cut_in_the_drawing_and_whole_in_the_key() -> None:
    long = "a-model-with-a-very-long-name"
    html = render_blocks([Bars((Group("g", (Bar(long, 1), Bar("b", 2))),))], "k")
    assert "a-model-with-a-v\u2026" in [one.text for one in drawing(html).iter("text")]
    assert f"</svg>{long}</span>" in html


# --- curves -----------------------------------------------------------------------------


def test_points_are_joined_in_the_order_given() -> None:
    """KL goes up and comes back: the third point lies between the first two."""
    html = render_blocks([Curves((Curve("gold", ((0, 0), (4, 2), (2, 4))),), "KL", "reward")], "k")
    (line,) = [one for one in drawing(html).iter("polyline") if one.get("class") == "line"]
    (x0, y0), (x1, y1), (x2, y2) = (
        map(float, point.split(",")) for point in line.get("points", "").split()
    )
    assert x0 < x2 < x1
    assert x2 == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert y0 > y1 > y2
    assert "KL" in [one.text for one in drawing(html).iter("text")]


def test_the_ends_of_one_path_are_named_and_of_several_marked() -> None:
    back = ((0, 0), (4, 2), (2, 4))
    one = render_blocks([Curves((Curve("a", back),), "KL", "r")], "k")
    assert {"start", "end"} <= {text.text for text in drawing(one).iter("text")}
    two = render_blocks([Curves((Curve("a", back), Curve("b", back)), "KL", "r")], "k")
    assert "start" not in {text.text for text in drawing(two).iter("text")}
    assert two.count("dot hollow") == 2
    assert "from its open dot to its full one" in two


def test_a_smooth_path_is_a_mean_of_both_coordinates() -> None:
    """A noise of +-1 on x about a straight climb: its mean climbs and never turns back."""
    points = tuple((i + (-1) ** i, float(i)) for i in range(40))
    html = render_blocks([Curves((Curve("a", points, smooth=True),), "KL", "r")], "k")
    (line,) = [one for one in drawing(html).iter("polyline") if one.get("class") == "line"]
    xs = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert xs[4:-4] == sorted(xs[4:-4])
    assert "Lines are moving means." in html


def test_each_of_four_curves_has_a_colour_and_a_key() -> None:
    names = ("gold", "proxy", "ensemble", "judge")
    spec = Curves(tuple(Curve(n, ((0, i), (1, i + 1))) for i, n in enumerate(names)), "KL", "r")
    html = render_blocks([spec], "k")
    assert [g.get("class") for g in drawing(html).iter("g")] == [f"series s{i}" for i in range(4)]
    keys = re.findall(r"class='swatch (s\d)'.*?</svg>(\w+)<", html)
    assert keys == list(zip(("s0", "s1", "s2", "s3"), names, strict=True))
    style = files("fairlead.report").joinpath("style.css").read_text()
    assert set(re.findall(r"svg\.chart \.s(\d), \.s\d\.swatch \{ color", style)) == {
        str(index) for index in range(1, charts.COLOURS)
    }


@pytest.mark.parametrize("last", range(2, 60))
def test_ticks_of_steps_are_whole_numbers(last: int) -> None:
    axis = axes.make_axis(1, last, 0.0, 100.0, 4, whole=True)
    assert axis.ticks
    assert all(tick == int(tick) for tick in axis.ticks)


def test_curves_over_steps_have_whole_ticks_and_over_kl_any() -> None:
    points = ((0, 0), (1, 1))
    by_step = drawing(render_blocks([Curves((Curve("a", points),), "step", "r")], "k"))
    by_kl = drawing(render_blocks([Curves((Curve("a", points),), "KL", "r")], "k"))
    middle = [[t.text for t in svg.iter("text") if t.get("y") == "189"] for svg in (by_step, by_kl)]
    assert middle[0] == ["0", "1"]
    assert middle[1] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


# --- nothing, and anything --------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        Text(" \n "),
        Table(("a",), ()),
        Table((), ()),
        Bars(()),
        Bars((Group("g", ()),)),
        bars(math.nan),
        Curves((), "x", "y"),
        Curves((Curve("a", ()),), "x", "y"),
        Curves((Curve("a", ((math.nan, 1.0), (1.0, math.nan))),), "x", "y"),
    ],
)
def test_a_block_of_nothing_is_left_out_with_a_note(block: Any) -> None:
    html = render_blocks([block], "k")
    assert "Nothing here could be drawn; left out." in html
    assert "<svg" not in html
    assert "<table" not in html


@pytest.mark.parametrize("value", [0.0, 5e-324, -5e-324, 1e99, -1e99, 1e-9])
def test_bars_of_any_size_stay_in_the_drawing(value: float) -> None:
    svg = drawing(bar_chart("t", bars(value, 0.0, reference=value)))
    assert all(x >= -0.05 and x + width <= 340 for x, width in rectangles(svg))


# --- logarithmic axes -------------------------------------------------------------------


def test_equal_factors_are_equally_far_apart_on_logarithmic_axes() -> None:
    points = tuple((10.0**k, 0.001 * 10.0**k) for k in range(4))
    block = Curves((Curve("a", points),), "B", "ms", log=True)
    svg = drawing(render_blocks([block], "k"))
    (line,) = [one for one in svg.iter("polyline") if one.get("class") == "line"]
    pixels = [tuple(map(float, one.split(","))) for one in line.get("points", "").split()]
    steps = [(x1 - x0, y0 - y1) for (x0, y0), (x1, y1) in pairwise(pixels)]
    assert all(dx == pytest.approx(steps[0][0], abs=0.2) for dx, _ in steps)
    assert all(dy == pytest.approx(steps[0][1], abs=0.2) for _, dy in steps)
    labels = [one.text for one in svg.iter("text")]
    assert {"1", "10", "100", "1,000"} <= set(labels)
    assert {"0.001", "0.01", "0.1"} <= set(labels)


def test_points_that_no_logarithm_has_are_left_out() -> None:
    points = ((0.0, 1.0), (1.0, 0.0), (2.0, 3.0), (4.0, 3.5))
    svg = drawing(render_blocks([Curves((Curve("a", points),), "B", "ms", log=True)], "k"))
    (line,) = [one for one in svg.iter("polyline") if one.get("class") == "line"]
    assert len(line.get("points", "").split()) == 2
    nothing = Curves((Curve("a", ((1.0, 0.0),)),), "B", "ms", log=True)
    assert '<svg class="chart"' not in render_blocks([nothing], "k")


@pytest.mark.parametrize("span", [(1.0, 1.0), (3.0, 5.0), (1e-6, 1e9), (0.02, 900.0)])
def test_a_logarithmic_axis_has_a_few_ticks_within_it(span: tuple[float, float]) -> None:
    axis = axes.make_log_axis(*span, 0.0, 100.0)
    assert axis.low < span[0] and span[1] < axis.high
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert len(axis.ticks) <= 8
    assert len(axis.labels()) == len(axis.ticks)
    assert axis.at(axis.low) == pytest.approx(0) and axis.at(axis.high) == pytest.approx(100)
