"""Text for people: numbers, durations, and escaping for a page that shows model output."""

from __future__ import annotations

import html
import math
import re
from datetime import datetime

# What HTML cannot hold or a browser acts on: controls, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(value: object) -> str:
    """Return any text as HTML text, safe between tags and inside quoted attributes."""
    return html.escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True)


def figure(value: float, digits: int = 4) -> str:
    """Return a number for people: ``12,345``, ``3.142``, ``1.2e-5``, with a true minus sign."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "\u2212infinite"
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif abs(value) >= 1e7 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.{digits - 2}e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "\u2212")


def percent(share: float) -> str:
    """Return a share as ``61 %``, with a narrow space that does not break."""
    digits = 0 if 0.01 <= abs(share) <= 0.99 or share in (0, 1) else 1
    return f"{100 * share:.{digits}f}\u202f%"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds is None or seconds < 0:
        return "\u2013"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: str) -> str:
    """Return an ISO time as ``1 August 2026, 12:30 UTC+00:00``; anything else unchanged."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def with_error(value: float, error: float | None) -> str:
    """Return ``1.21 ± 0.10``: as many decimals as the error has two digits of."""
    if error is None or error <= 0:
        return figure(value, 3)
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 8)
    return f"{value:.{decimals}f} \u00b1 {error:.{decimals}f}".replace("-", "\u2212")
