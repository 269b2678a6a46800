"""How a PPO step's cost grows with batch, response length and model size: a plot by phase.

    python benchmarks/growth.py --out runs/growth --plot docs/images/growth.svg

Each point is one run of ``fairlead bench ppo``; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SMALL = {"layers": 2, "hidden": 128, "heads": 4}
AXES: dict[str, list[dict[str, int]]] = {
    "batch": [{**SMALL, "batch": batch} for batch in (16, 32, 64, 128)],
    "response": [{**SMALL, "response": tokens} for tokens in (16, 32, 64, 128)],
    "hidden": [{"layers": 2, "hidden": width, "heads": width // 64} for width in (128, 256, 512)],
}
TITLES = {
    "batch": "episodes a step",
    "response": "tokens of a response",
    "hidden": "width of the models",
}
COLORS = {
    "generate": "#4477aa",
    "logprobs": "#66ccee",
    "reference": "#228833",
    "values": "#ccbb44",
    "reward": "#ee6677",
    "update": "#aa3377",
}
PANEL, HEIGHT, LEFT, TOP, BOTTOM = 280, 300, 46, 40, 56


def main() -> None:
    """Run what is not there yet, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    panels = []
    for axis, cases in AXES.items():
        bars = [(case[axis], measured(asked.out, axis, case)) for case in cases]
        panels.append((TITLES[axis], bars))
    asked.plot.write_text(drawing(panels), encoding="utf-8")


def measured(out: Path, axis: str, case: dict[str, int]) -> dict[str, float]:
    """Return seconds by phase of one case."""
    path = out / f"{axis}-{case[axis]}.json"
    if not path.exists():
        options = [text for name, value in case.items() for text in (f"--{name}", str(value))]
        command = [Path(sys.executable).parent / "fairlead", "bench", "ppo", *options]
        subprocess.run([*command, "--json", path], check=True)
    phases: dict[str, float] = json.loads(path.read_text())["result"]["phases"]
    return phases


def drawing(panels: list[tuple[str, list[tuple[int, dict[str, float]]]]]) -> str:
    """Return stacked bars, one panel an axis, as SVG."""
    width = PANEL * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" role="img" '
        'aria-label="Seconds of a PPO step by phase">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
        *legend(),
    ]
    for number, (title, bars) in enumerate(panels):
        parts += panel(number * PANEL, title, bars)
    return "\n".join([*parts, "</svg>", ""])


def legend() -> list[str]:
    """Return the phases' names beside their colours."""
    marks = []
    for number, (name, color) in enumerate(COLORS.items()):
        x = LEFT + 100 * number
        marks.append(f'<rect x="{x}" y="8" width="10" height="10" fill="{color}"/>')
        marks.append(f'<text x="{x + 14}" y="17">{name}</text>')
    return marks


def panel(x: int, title: str, bars: list[tuple[int, dict[str, float]]]) -> list[str]:
    """Return one axis: a bar a value, its phases on top of each other."""
    most = max(sum(phases.values()) for _, phases in bars)
    room, floor = HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM
    step = (PANEL - LEFT - 14) / len(bars)
    parts: list[Any] = [
        f'<text x="{x + LEFT + (PANEL - LEFT) / 2 - 7}" y="{HEIGHT - 14}" '
        f'text-anchor="middle">{title}</text>',
        f'<text x="{x + LEFT - 6}" y="{TOP + 4}" text-anchor="end">{most:.2g} s</text>',
        f'<text x="{x + LEFT - 6}" y="{floor}" text-anchor="end">0</text>',
        f'<path d="M{x + LEFT} {TOP}V{floor}H{x + PANEL - 10}" fill="none" stroke="#888"/>',
    ]
    for number, (value, phases) in enumerate(bars):
        left, y = x + LEFT + step * number + step * 0.15, float(floor)
        for name, color in COLORS.items():
            height = room * phases.get(name, 0.0) / most
            y -= height
            parts.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{step * 0.7:.1f}" '
                f'height="{height:.1f}" fill="{color}"><title>{name}: {phases.get(name, 0):.3f} s'
                "</title></rect>"
            )
        middle = left + step * 0.35
        parts.append(f'<text x="{middle:.1f}" y="{floor + 15}" text-anchor="middle">{value}</text>')
    return parts


if __name__ == "__main__":
    main()
