"""The benchmark against TRL: what its table says, and what a failing run says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmark_scripts import load

TURNS = load("ppo_turns")


def test_the_table_has_medians_and_the_range_of_each_rounds_ratio() -> None:
    """Rounds 8 / 4, 9 / 3 and 12 / 2.4: 2, 3 and 5 times; medians 9 and 3; the floor 1.5 / 3."""
    ours = [
        {"result": {"seconds": one, "peak_gib": {"a": 1.0, "b": gib}}, "floor_seconds": 1.5}
        for one, gib in ((4.0, 0.5), (3.0, 1.25), (2.4, 0.5))
    ]
    theirs = [{"seconds": one, "peak_gib": one / 8} for one in (8.0, 9.0, 12.0)]
    table = TURNS.table({"1 M": {"float32": ours, "TRL": theirs}}).splitlines()
    assert table[2] == (
        "| 1 M | float32 | 9.00 | 3.00 | 3.00x | 2.00 to 5.00 | 50% | 1.25 | 1.50 |"
    )
    assert {line.count("|") for line in table} == {10}


def test_a_run_that_fails_ends_it_with_its_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(SystemExit, match=r"failed:\nno such model"):
        TURNS.read(command, tmp_path / "found.json")
