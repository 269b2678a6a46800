"""Metrics: weighted means, and files that a kill and a resume leave whole."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from fairlead.metrics import MetricsWriter, Sums, read_metrics


class Recorder:
    """A logger that remembers."""

    def __init__(self, fails: bool = False) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed = 0
        self.fails = fails

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.logged.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise OSError("disk full")


def rows(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def table(directory: Path) -> list[list[str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_means_weigh_microbatches_by_what_counts_in_them() -> None:
    """Fidelity item 32: metrics averaged over microbatches of unequal size.

    By hand: 3 tokens with losses 1, 2, 3 and one token with loss 10 have the mean
    16 / 4 = 4; the mean of the two means would be (2 + 10) / 2 = 6.
    """
    sums = Sums()
    sums.add("loss", 1.0 + 2.0 + 3.0, 3)
    sums.add_all({"loss": (10.0, 1.0), "accuracy": (1.0, 2.0)})
    assert sums.means() == {"loss": 4.0, "accuracy": 0.5}
    assert sums.pairs() == {"loss": (16.0, 4.0), "accuracy": (1.0, 2.0)}


def test_a_metric_nothing_counted_for_is_absent() -> None:
    sums = Sums()
    sums.add("margin", 0.0, 0.0)
    assert sums.means() == {}


def test_each_step_is_on_disk_before_the_next(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "sft")
    writer.write(1, {"loss/train": 4.25})
    assert rows(tmp_path / "sft")[0]["loss/train"] == 4.25
    assert table(tmp_path / "sft") == [["step", "metric", "value"], ["1", "loss/train", "4.25"]]
    writer.close()


def test_a_metric_that_appears_late_needs_no_column(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": 1.0})
        writer.write(2, {"a": 2.0, "b,c": 3.0})
    assert table(tmp_path)[1:] == [["1", "a", "1.0"], ["2", "a", "2.0"], ["2", "b,c", "3.0"]]
    assert set(rows(tmp_path)[0]) == {"step", "time", "a"}


def test_numbers_are_read_back_exactly(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": value})
    assert rows(tmp_path)[0]["a"] == value
    assert float(table(tmp_path)[1][2]) == value


def test_values_that_are_not_finite_keep_the_json_valid(tmp_path: Path) -> None:
    logger = Recorder()
    with MetricsWriter(tmp_path, [logger]) as writer:
        writer.write(1, {"a": math.nan, "b": -math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["a"] is None
    assert row["b"] is None
    assert [line[2] for line in table(tmp_path)[1:]] == ["nan", "-inf"]
    assert math.isnan(logger.logged[0][1]["a"])


def test_a_new_run_begins_its_files_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricsWriter(tmp_path) as writer:
            writer.write(1, {"a": 1.0})
    assert len(rows(tmp_path)) == 1
    assert len(table(tmp_path)) == 2


def test_resuming_drops_what_will_be_written_again(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(6):
            writer.write(step, {"a": float(step)})
    with MetricsWriter(tmp_path, resume_step=3) as writer:
        writer.write(4, {"a": 40.0})
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
    ]
    assert [line[0] for line in table(tmp_path)] == ["step", "0", "1", "2", "3", "4"]
    assert table(tmp_path)[-1] == ["4", "a", "40.0"]


def test_resuming_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, {"eval/reward": 1.0})
    with MetricsWriter(tmp_path, resume_step=0) as writer:
        writer.write(0, {"eval/reward": 1.0})
    assert len(rows(tmp_path)) == 1
    assert len(table(tmp_path)) == 2


def test_resuming_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a": 2')
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,a,2")
    with MetricsWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, {"a": 3.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 3]
    assert [line[0] for line in table(tmp_path)[1:]] == ["1", "3"]


def test_time_goes_on_after_a_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "time": 1000.5, "a": 1.0}\n')
    with MetricsWriter(tmp_path, resume_step=7) as writer:
        writer.write(8, {"a": 1.0})
    last = rows(tmp_path)[-1]["time"]
    assert isinstance(last, float)
    assert 1000.5 <= last < 1010


def test_a_rewrite_leaves_no_other_file_behind(tmp_path: Path) -> None:
    for resume in (None, 1):
        with MetricsWriter(tmp_path, resume_step=resume) as writer:
            writer.write(1, {"a": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_loggers_are_all_closed_once_even_when_one_fails(tmp_path: Path) -> None:
    broken, sound = Recorder(fails=True), Recorder()
    writer = MetricsWriter(tmp_path, [broken, sound])
    writer.write(1, {"a": 1.0})
    with pytest.raises(OSError, match="disk full"):
        writer.close()
    writer.close()
    assert (broken.closed, sound.closed) == (1, 1)
    assert sound.logged == [(1, {"a": 1.0})]


def test_reading_counts_damaged_lines_but_not_a_cut_last_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\nrubbish\n{"a": 2}\n[1]\n{"step": 2, "a": 2}\n{"step": 3')
    found, unreadable = read_metrics(path)
    assert [row["step"] for row in found] == [1, 2]
    assert unreadable == 3


def test_a_missing_file_holds_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == ([], 0)
