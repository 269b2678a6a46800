"""Numbers out of files that anyone may have written."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number (and not true or false)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def drawable(value: float | None) -> float:
    """Return a metric's value, NaN where it is not finite or beyond what can be drawn."""
    return math.nan if value is None or not abs(value) < 1e100 else float(value)


def number(value: Any) -> float | None:
    """Return a JSON value as a finite number, or None."""
    if not is_number(value):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None
