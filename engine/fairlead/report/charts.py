"""Charts as inline SVG, drawn by hand: no library, no script needed to read them.

Colours and widths come from the page's style sheet by class; text is real text. Every chart
has a title and a description, which a screen reader reads in place of the lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fairlead.report.axes import Axis, make_axis, make_log_axis
from fairlead.report.text import escape, figure

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 22, 36
MAX_POINTS = 240
COLOURS = 5
"""Series with a colour of their own; the style sheet has as many."""


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: What it is called, in the key and to a screen reader.
        points: (x, y) in order of x; a y that is NaN is a measurement that was not finite.
        smooth: Draw the points faint and a moving mean over them.
        dots: Mark each point, as for measurements made now and then.
        errors: Half-width of a bar at each point, or None.
        path: Draw in the order given, the first and last point marked: x is not time.
        scatter: Draw points alone, no line.
    """

    name: str
    points: Sequence[Point]
    smooth: bool = False
    dots: bool = False
    errors: Sequence[float] | None = None
    path: bool = False
    scatter: bool = False


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return a centred moving mean that neither lags nor jumps at the ends.

    Inside, a straight line fitted to a symmetric window passes through the window's mean;
    at the ends, where the window is one-sided, the same line keeps the mean from being
    pulled towards the middle.
    """
    half = max(len(points) // 20, 3)
    ys, iis, iys = [0.0], [0.0], [0.0]
    for i, (_, y) in enumerate(points):
        for sums, term in ((ys, y), (iis, float(i * i)), (iys, i * y)):
            sums.append(sums[-1] + term)
    fitted = []
    for i, (x, _) in enumerate(points):
        low, high = max(i - half, 0), min(i + half + 1, len(points))
        n = high - low
        mean_i, mean_y = (low + high - 1) / 2, (ys[high] - ys[low]) / n
        spread = (iis[high] - iis[low]) / n - mean_i**2
        slope = ((iys[high] - iys[low]) / n - mean_i * mean_y) / spread if n > 1 else 0.0
        fitted.append((x, mean_y + slope * (i - mean_i)))
    return fitted


def mean_path(points: Sequence[Point]) -> list[Point]:
    """Return the moving mean of both coordinates along a path, so that it is no scribble."""
    xs = smoothed([(i, x) for i, (x, _) in enumerate(points)])
    ys = smoothed([(i, y) for i, (_, y) in enumerate(points)])
    return [(x, y) for (_, x), (_, y) in zip(xs, ys, strict=True)]


def thin(points: Sequence[Point]) -> list[Point]:
    """Return at most about `MAX_POINTS` points; each stretch keeps its extremes."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept: list[Point] = [points[0]]
    for begin in range(1, len(points) - 1, size):
        stretch = points[begin : min(begin + size, len(points) - 1)]
        ends = {min(stretch, key=_y), max(stretch, key=_y)}
        kept += [point for point in stretch if point in ends][:2]
    return [*kept, points[-1]]


def _y(point: Point) -> float:
    return point[1]


def runs(points: Sequence[Point]) -> list[list[Point]]:
    """Split points where a value is not finite: a line is not drawn across it."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str = "step",
    y_label: str = "value",
    steps: bool = True,
    log: bool = False,
) -> str:
    """Return a chart of a few lines, or an empty string when there is nothing to draw.

    Args:
        title: For a screen reader.
        series: Up to four lines are told apart by colour and dash.
        x_label: Names the horizontal axis.
        y_label: Names the vertical one.
        steps: The horizontal axis holds step numbers.
        log: Both axes are logarithmic; a point that is not above 0 is left out.
    """
    if log:
        series = [replace(one, points=_positive(one.points), errors=None) for one in series]
    drawn = [one for one in series if any(math.isfinite(y) for _, y in one.points)]
    if not drawn:
        return ""
    lows, highs = zip(*(_extent(one) for one in drawn), strict=True)
    xs = [x for one in drawn for x, _ in one.points]
    x_axis: Axis
    y_axis: Axis
    if log:
        x_axis = make_log_axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
        y_axis = make_log_axis(min(lows), max(highs), HEIGHT - BOTTOM, TOP)
    else:
        x_axis = make_axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, 4, whole=steps)
        y_axis = make_axis(min(lows), max(highs), HEIGHT - BOTTOM, TOP, 4)
    # The ends of one path get words; of several, which often begin together, only marks.
    words = sum(one.path for one in drawn) == 1
    marks = [_draw(one, index, x_axis, y_axis, words) for index, one in enumerate(drawn)]
    body = _frame(x_axis, y_axis, x_label, y_label) + "".join(marks)
    return svg(title, " ".join(describe(one, x_label) for one in drawn), body)


def _positive(points: Sequence[Point]) -> list[Point]:
    return [(x, y if y > 0 else math.nan) for x, y in points if x > 0]


def describe(series: Series, x_label: str) -> str:
    """Say in words what a line does."""
    finite = [point for point in series.points if math.isfinite(point[1])]
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    if len(finite) == 1:
        return f"{series.name}: {figure(y0)} at {x_label} {figure(x0)}."
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    return (
        f"{series.name}: from {figure(y0)} at {x_label} {figure(x0)} to {figure(y1)} at {x_label} "
        f"{figure(x1)}; between {figure(low)} and {figure(high)}."
    )


def _extent(series: Series) -> tuple[float, float]:
    errors = series.errors or [0.0] * len(series.points)
    both = [(y, e) for (_, y), e in zip(series.points, errors, strict=True) if math.isfinite(y)]
    return min(y - e for y, e in both), max(y + e for y, e in both)


def _draw(series: Series, index: int, x_axis: Axis, y_axis: Axis, words: bool) -> str:
    """Draw one series: faint points and a mean, or the line itself."""
    parts = []
    main: list[Point] = []
    for piece in runs(series.points):
        smooth = series.smooth and len(piece) >= 8
        if smooth:
            parts.append(_polyline(thin(piece), "raw", x_axis, y_axis))
        line = smoothed(piece) if smooth else piece
        line = line if series.path or series.scatter else thin(line)
        if not series.scatter:
            parts.append(_polyline(line, "line", x_axis, y_axis))
        if series.scatter or len(piece) == 1 or (series.dots and len(piece) <= 60):
            parts += [_dot(point, x_axis, y_axis) for point in piece]
        main += line
    if series.errors is not None:
        bars = zip(series.points, series.errors, strict=True)
        parts += [_bar(point, half, x_axis, y_axis) for point, half in bars if half > 0]
    if series.path:
        for point, word in ((main[0], "start"), (main[-1], "end")):
            parts.append(_end(point, word, x_axis, y_axis, words))
    data = f'data-name="{escape(series.name)}"'
    if not series.path and not series.scatter:
        data += f' data-points="{_pixels(main, x_axis, y_axis)}" data-values="{_values(main)}"'
    return f'<g class="series s{index % COLOURS}" {data}>{"".join(parts)}</g>'


def _polyline(points: Sequence[Point], kind: str, x_axis: Axis, y_axis: Axis) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="{kind}" points="{_pixels(points, x_axis, y_axis)}"/>'


def _pixels(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    return " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)


def _values(points: Sequence[Point]) -> str:
    return escape("|".join(f"{figure(x)}: {figure(y)}" for x, y in points))


def _dot(point: Point, x_axis: Axis, y_axis: Axis, radius: float = 2.2, kind: str = "dot") -> str:
    x, y = x_axis.at(point[0]), y_axis.at(point[1])
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'


def _bar(point: Point, half: float, x_axis: Axis, y_axis: Axis) -> str:
    if not math.isfinite(point[1]):
        return ""
    low, high = y_axis.at(point[1] - half), y_axis.at(point[1] + half)
    x = x_axis.at(point[0])
    return f'<path class="bar" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'


def _end(point: Point, word: str, x_axis: Axis, y_axis: Axis, said: bool) -> str:
    """Mark where a path begins or ends, with the word for it where there is room for words."""
    if not said:
        return _dot(point, x_axis, y_axis, 3.2, "dot hollow" if word == "start" else "dot")
    x, y = x_axis.at(point[0]), y_axis.at(point[1])
    right = x > (LEFT + WIDTH - RIGHT) / 2
    side, anchor = (0, "end") if right else (7, "start")
    down = 4 if word == "start" else -12 if y > HEIGHT / 2 else 20
    text = f'<text class="mark" x="{x + side:.1f}" y="{y + down:.1f}" text-anchor="{anchor}">{word}'
    return f"{_dot(point, x_axis, y_axis, 3.2)}{text}</text>"


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    """Draw grid, ticks and axis labels."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick, label in zip(y_axis.ticks, y_axis.labels(), strict=True):
        y = y_axis.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    for tick, label in zip(x_axis.ticks, x_axis.labels(), strict=True):
        x = x_axis.at(tick)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" x="4" y="11">{escape(y_label)}</text>'
    )
    return "".join(parts)


def svg(title: str, description: str, body: str, height: float = HEIGHT) -> str:
    """Return a drawing with the words a screen reader reads in its place."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" class="chart">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
    )


@dataclass(frozen=True)
class CalibrationBin:
    """How often a reward model was right where it was so sure.

    Attributes:
        confidence: Mean of its pairs.
        accuracy: Share of them that it is right on.
        count: How many they are.
        interval: The accuracy's 95 % interval, where it is known.
    """

    confidence: float
    accuracy: float
    count: int
    interval: tuple[float, float] | None = None


def calibration_chart(bins: Sequence[CalibrationBin]) -> str:
    """Return accuracy against confidence with the diagonal of a calibrated model."""
    if not bins:
        return ""
    low = 0.5 if min(one.confidence for one in bins) >= 0.5 else 0.0
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0) if low else (0.0, 0.25, 0.5, 0.75, 1.0)
    x_axis = Axis(low, 1.0, LEFT, WIDTH - RIGHT, ticks)
    y_axis = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP, (0.0, 0.25, 0.5, 0.75, 1.0))
    points = [(one.confidence, one.accuracy) for one in sorted(bins, key=lambda b: b.confidence)]
    parts = [_frame(x_axis, y_axis, "confidence", "accuracy")]
    parts.append(_polyline([(low, low), (1.0, 1.0)], "ideal", x_axis, y_axis))
    marks = [_polyline(points, "line", x_axis, y_axis)]
    most = max(one.count for one in bins) or 1
    for one in bins:
        if one.interval:
            bottom, top = (y_axis.at(min(max(end, 0.0), 1.0)) for end in one.interval)
            x = x_axis.at(one.confidence)
            marks.append(f'<path class="bar" d="M{x:.1f} {bottom:.1f}V{top:.1f}"/>')
        radius = 2.5 + 3.5 * math.sqrt(max(one.count, 0) / most)
        marks.append(_dot((one.confidence, one.accuracy), x_axis, y_axis, radius))
    parts.append(f'<g class="series s0">{"".join(marks)}</g>')
    gap = max(abs(one.accuracy - one.confidence) for one in bins)
    words = f"{len(bins)} bins; accuracy is at most {figure(gap, 2)} away from confidence."
    return svg("Calibration: accuracy against confidence", words, "".join(parts))
