"""What people see: plain lines in a pipe, a bar on a terminal, warnings when quiet."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from fairlead import ui
from fairlead.ui import Display


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, name: str = "stderr") -> Terminal:
    # Not a fixture: pytest puts its own streams back between a fixture and its test.
    stream = Terminal()
    monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: now[0])
    return now


def test_plain_mode_prints_the_first_the_last_and_every_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display().stage("sft", "step", 200) as progress:
        for step in range(1, 201):
            progress.advance(step, {"loss/train": 4.0})
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("sft: step 1/200  loss/train 4")
    assert lines[-1].startswith("sft: step 200/200")
    assert len(lines) == 11


def test_plain_mode_prints_a_slow_stage_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Display().stage("ppo", "iteration", 10_000) as progress:
        for step in range(1, 31):
            clock[0] += 2.0
            progress.advance(step, {})
    steps = [line.split()[2].split("/")[0] for line in capsys.readouterr().err.splitlines()]
    assert steps == ["1", "6", "11", "16", "21", "26", "30"]


def test_the_last_step_is_shown_when_a_stage_ends_early(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RuntimeError), Display().stage("sft", "step", 1000) as progress:
        for step in (1, 2, 3):
            progress.advance(step, {})
        raise RuntimeError
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == [
        "1/1000",
        "3/1000",
    ]


def test_a_stage_of_unknown_length_counts_up(capsys: pytest.CaptureFixture[str]) -> None:
    with Display().stage("walk", "step", None) as progress:
        progress.advance(1, {})
        assert progress.total is None
    assert capsys.readouterr().err.startswith("walk: step 1  ")


def test_the_numbers_people_watch_are_shown_with_their_latest_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display().stage("ppo", "iteration", 2) as progress:
        progress.advance(1, {"eval/reward": 0.5, "val/ratio": 1.0, "objective/kl": 0.125})
        progress.advance(2, {"objective/kl": 5.25})
    last = capsys.readouterr().err.splitlines()[-1]
    assert "objective/kl 5.25  eval/reward 0.5" in last
    assert "val/ratio" not in last


def test_speed_and_time_left_count_from_the_step_resumed_at(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Display().stage("sft", "step", 200) as progress:
        for step in (101, 102, 103, 125):
            clock[0] += 4.0
            progress.advance(step, {})
    # 24 steps in 12 seconds, 75 to go: 2 a second, 37.5 s.
    assert capsys.readouterr().err.splitlines()[-1].endswith("2.0/s  0:38 left")


def test_throughput_is_in_tokens_where_a_stage_counts_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display().stage("sft", "step", 1) as progress:
        progress.advance(1, {"tokens_per_second": 12345.6})
    assert "12,346 tokens/s" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with Display().stage("sft", "step", 4) as progress:
        for step in range(1, 5):
            progress.advance(step, {"loss/train": 4.5})
    shown = terminal.getvalue()
    assert "━" in shown
    assert "step 4/4" in shown
    assert "loss/train 4.5" in shown


def test_a_narrow_terminal_drops_numbers_rather_than_cutting_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    metrics = {"objective/scores": 1.0, "objective/kl": 2.5, "loss/ptx": 3.0, "eval/reward": 4.0}
    with Display().stage("ppo", "iteration", 2) as progress:
        progress.advance(2, metrics)
    shown = terminal.getvalue()
    assert "iteration 2/2" in shown
    assert "objective/scores 1" in shown
    assert "…" not in shown


def test_a_note_during_a_bar_is_kept_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    display = Display()
    with display.stage("sft", "step", 4) as progress:
        display.note("checkpoint [written]")
        progress.advance(1, {})
    assert "checkpoint [written]\n" in terminal.getvalue()


def test_quiet_leaves_warnings_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=True)
    display.note("not shown")
    with display.stage("sft", "step", 1) as progress:
        progress.advance(1, {"loss/train": 1.0})
    display.warn("no GPU")
    display.table("", ["a"], [[1]])
    out, err = capsys.readouterr()
    assert err == "warning: no GPU\n"
    assert out == "a\n-\n1\n"


def test_a_table_in_a_pipe_is_aligned_and_uncut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    Display().table("Plugins", ["name", "version"], [["ppo", 1.5], [long, "[red]2"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Plugins"
    assert lines[2] == "name" + " " * 298 + "version"
    assert lines[5] == f"{long}  [red]2"


def test_a_table_without_rows_shows_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    Display().table("", ["name", "version"], [])
    assert capsys.readouterr().out == "name  version\n----  -------\n"


def test_a_table_on_a_terminal_shows_markup_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = on_terminal(monkeypatch, "stdout")
    Display().table("t", ["name"], [["[bold]x[/bold]"]])
    assert "[bold]x[/bold]" in stream.getvalue()


def test_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Display().note("a\x1b[2Jb\u202ec\ttab\nline é")
    assert capsys.readouterr().err == "a\\x1b[2Jb\\u202ec\ttab\nline é\n"


def test_a_poor_locale_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    Display().warn("naïve")
    stream.seek(0)
    assert stream.read() == "warning: na\\xefve\n"


@pytest.mark.parametrize(
    ("value", "text"), [(3.14159, "3.142"), (12345.6, "12,346"), (1e-6, "1e-06"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert ui.short(value) == text


def test_a_value_that_is_not_finite_is_shown_as_it_is() -> None:
    assert ui.short(float("nan")) == "nan"
    assert ui.short(float("-inf")) == "-inf"


def test_importing_it_loads_neither_torch_nor_rich() -> None:
    code = "import sys, fairlead.ui; sys.exit(bool({'torch', 'rich'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
