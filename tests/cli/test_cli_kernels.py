"""`kernels list` and `bench kernels`: what is there, what is wrong, and what is written down."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT

from fairlead_kernels.bench import COLUMNS
from fairlead_kernels.bench.machine import Machine
from fairlead_kernels.dispatch import registry

Run = Callable[..., Any]
PluginFile = Callable[[str, str], str]

KERNEL = """
from fairlead import hookimpl
from fairlead.kernels import Kernel

def whiten(x, mask, shift_mean, eps):
    count = mask.sum().clamp(min=1)
    kept = x.double().masked_fill(~mask, 0)
    mean = kept.sum() / count
    centred = (kept - mean).masked_fill(~mask, 0)
    result = centred * (centred.square().sum() / count + eps).rsqrt()
    return {result}.float()

@hookimpl
def register_kernels(register):
    register("whiten/mine", lambda: Kernel(whiten, priority=7))
"""
RIGHT = KERNEL.replace("{result}", "result")
WRONG = KERNEL.replace("{result}", "(result * 1.01)")
QUICK = ("--seconds", "0.001", "--no-compile", "--device", "cpu")


@pytest.fixture(autouse=True)
def quiet_and_alone(monkeypatch: pytest.MonkeyPatch, no_installed_plugins: None) -> None:
    """A kernel goes with its test, and the machine's limits need not be measured."""
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)

    def known(machine: Machine, dtype: torch.dtype, products: bool) -> None:
        machine.copy = 1e10
        machine.gemm[dtype] = 1e11

    monkeypatch.setattr(Machine, "measure", known)


@pytest.fixture
def bench(fairlead: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the benchmark in an empty directory, briefly."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: fairlead("bench", "kernels", *QUICK, *arguments)


def rows_of(path: str) -> list[dict[str, Any]]:
    return list(json.loads(Path(path).read_text())["rows"])


# --- kernels list -----------------------------------------------------------------------


def test_each_operation_is_listed_with_what_auto_takes(fairlead: Run) -> None:
    rows = json.loads(fairlead("kernels", "list", "--json").out)
    assert {row["op"] for row in rows} == set(registry.operations())
    for op in registry.operations():
        here = [row for row in rows if (row["op"], row["device"]) == (op, "cpu")]
        assert sum(row["auto"] for row in here) == 1
        assert all(bool(row["reason"]) != row["available"] for row in here)
    reference = next(row for row in rows if row["impl"] == "reference")
    assert set(reference) == {"op", "impl", "owner", "device", "available", "reason", "auto"}


def test_the_table_says_why_one_cannot_run(fairlead: Run, plugin_file: PluginFile) -> None:
    source = RIGHT.replace("priority=7", "available=lambda: 'only on Sundays'")
    shown = fairlead("kernels", "list", "--plugin", plugin_file("sunday", source))
    assert shown.code == 0
    (line,) = [line for line in shown.out.splitlines() if " mine " in line]
    assert line.startswith("whiten ")
    assert "plugin 'sunday'" in line
    assert line.endswith("no: only on Sundays")
    assert re.search(r"^gae +reference +fairlead_kernels +cpu +(auto|yes)$", shown.out, re.M)


# --- a kernel of a plugin ---------------------------------------------------------------


def test_a_third_partys_kernel_shows_up_in_both(
    fairlead: Run, bench: Run, plugin_file: PluginFile
) -> None:
    plugin = ("--plugin", plugin_file("third", RIGHT))
    listed = json.loads(fairlead("kernels", "list", "--json", *plugin).out)
    (row,) = [row for row in listed if row["impl"] == "mine"]
    assert (row["op"], row["available"]) == ("whiten", True)
    assert "plugin 'third'" in row["owner"]
    shown = bench("--op", "whiten", "--shape", "5x7", "--json", "out.json", *plugin)
    assert shown.code == 0, shown.err
    measured = {row["impl"]: row for row in rows_of("out.json")}
    assert measured["mine"]["status"] == "timed"
    assert measured["mine"]["median_ms"] > 0
    assert "plugin 'third'" in measured["mine"]["owner"]
    assert re.search(r"^mine +[\d.]+ ", shown.out, re.M)


def test_a_wrong_kernel_is_shown_as_wrong_and_not_timed(
    bench: Run, plugin_file: PluginFile
) -> None:
    path = plugin_file("bad", WRONG)
    shown = bench("--op", "whiten", "--shape", "5x7", "--json", "out.json", "--plugin", path)
    assert shown.code == 1
    assert "error: not timed, because wrong or broken: whiten/mine." in shown.err
    assert re.search(r"^mine +- .*WRONG, not timed: result is off by", shown.out, re.M)
    measured = {row["impl"]: row for row in rows_of("out.json")}
    assert measured["mine"]["status"] == "wrong"
    assert measured["mine"]["median_ms"] is None
    assert measured["mine"]["max_error"] > 1e-3
    assert measured["reference"]["median_ms"] > 0


def test_the_example_plugin_is_right(fairlead: Run, bench: Run) -> None:
    plugin = ("--plugin", str(ROOT / "examples" / "plugins" / "gae_scan.py"))
    assert re.search(r"^gae +scan .* yes$", fairlead("kernels", "list", *plugin).out, re.M)
    for shape in ("1x1", "3x2", "17x33"):
        shown = bench("--op", "gae", "--impl", "scan", "--shape", shape, *plugin)
        assert shown.code == 0, shown.out
        assert re.search(r"^scan +[\d.]+ ", shown.out, re.M)


# --- what is written --------------------------------------------------------------------


def test_files_hold_every_row(bench: Run) -> None:
    files = ("--json", "new/out.json", "--csv", "new/out.csv", "--plot", "new/out.html")
    shown = bench("--op", "gae", "--shape", "5x7", "--shape", "9x3", "--threads", "1", *files)
    assert shown.code == 0, shown.err
    data = json.loads(Path("new/out.json").read_text())
    assert data["schema"] == 1
    assert {"command", "date", "commit", "cpu", "versions"} <= set(data["provenance"])
    assert data["machines"][0]["copy_gb_per_s"] == 10
    wanted = {
        "op", "impl", "device", "dtype", "shape", "median_ms", "p20_ms", "p80_ms", "peak_bytes",
        "max_error", "eager_error", "speedup_vs_eager", "fraction_of_roofline",
    }  # fmt: skip
    assert all(wanted <= set(row) for row in data["rows"])
    assert {tuple(row["shape"]) for row in data["rows"]} == {(5, 7), (9, 3)}
    reference = next(row for row in data["rows"] if row["impl"] == "reference")
    numbers = [reference[name] for name in wanted - {"op", "impl", "device", "dtype", "shape"}]
    assert all(isinstance(number, (int, float)) for number in numbers)
    table = list(csv.reader(Path("new/out.csv").read_text().splitlines()))
    assert table[0] == list(COLUMNS)
    assert len(table) == 1 + len(data["rows"])
    assert {row[table[0].index("shape")] for row in table[1:]} == {"5x7", "9x3"}
    assert "written to new/out.html" in shown.err


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot"])
def test_the_directories_of_a_file_are_made(option: str, bench: Run) -> None:
    shown = bench("--op", "philox_uniform", "--shape", "5", option, "a/new/one/out.html")
    assert shown.code == 0, shown.err
    assert Path("a/new/one/out.html").stat().st_size > 0


def test_nothing_is_made_for_what_is_refused(bench: Run) -> None:
    shape = ("--op", "gae", "--shape", "10000000x1000000")
    shown = bench(*shape, "--json", "new/out.json")
    assert shown.code == 2
    assert re.search(
        r"take about [\d.]+ TiB, about [\d.]+ .iB are free\. Give a smaller", shown.err
    )
    assert not Path("new").exists()


def test_a_sweep_is_drawn_as_time_against_size(bench: Run) -> None:
    shown = bench(
        "--op", "whiten", "--shape", "32x16", "--sweep", "--threads", "1", "--plot", "out.html"
    )
    assert shown.code == 0, shown.err
    page = Path("out.html").read_text()
    assert page.count("<svg viewBox") == 2
    for axis, sizes in {"B": (2, 4, 8, 16, 32), "T": (1, 2, 4, 8, 16)}.items():
        chart = re.search(rf"<svg viewBox(?:(?!</svg>).)*>{axis}</text>.*?</svg>", page, re.S)
        assert chart is not None
        assert {"eager", "reference"} <= set(re.findall(r'data-name="([^"]*)"', chart[0]))
        for values in re.findall(r'data-values="([^"]*)"', chart[0]):
            assert tuple(int(one.split(":")[0]) for one in values.split("|")) == sizes
    # A page of its own: nothing is fetched.
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_without_a_sweep_the_page_shows_speed_ups(bench: Run) -> None:
    assert bench("--op", "whiten", "--shape", "5x7", "--plot", "out.html").code == 0
    page = Path("out.html").read_text()
    assert "Times faster than eager" in page
    assert page.count("<svg viewBox") == 1


def test_what_was_measured_before_an_interruption_is_kept(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairlead_kernels.bench import Benchmark

    before, done = Benchmark.run_case, []

    def interrupted(self: Benchmark, case: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return before(self, case)

    monkeypatch.setattr(Benchmark, "run_case", interrupted)
    shown = bench("--op", "whiten", "--shape", "5x7", "--shape", "6x7", "--json", "out.json")
    assert shown.code == 130
    assert {tuple(row["shape"]) for row in rows_of("out.json")} == {(5, 7)}


# --- choosing ---------------------------------------------------------------------------


def test_threads_dtypes_and_shapes_multiply(bench: Run) -> None:
    chosen = ("--threads", "1", "--threads", "2", "--dtype", "float32", "--dtype", "bfloat16")
    sizes = ("--shape", "3x5", "--shape", "4")
    assert bench("--op", "whiten", "--op", "philox_uniform", *chosen, *sizes).code == 2
    shown = bench("--op", "whiten", *chosen, "--shape", "3x5", "--json", "out.json")
    assert shown.code == 0, shown.err
    cases = {(row["dtype"], row["threads"]) for row in rows_of("out.json")}
    assert cases == {("float32", 1), ("float32", 2), ("bfloat16", 1), ("bfloat16", 2)}


def test_operations_not_named_that_no_shape_fits_are_left_out(bench: Run) -> None:
    assert bench("--shape", "50", "--json", "out.json").code == 0
    assert {row["op"] for row in rows_of("out.json")} == {"philox_uniform"}


WRONG_ARGUMENTS = {
    "operation": (["--op", "gea"], "no such operation (did you mean 'gae'?)"),
    "implementation": (["--op", "gae", "--impl", "refrence"], "did you mean 'reference'?"),
    "another operation's": (["--op", "whiten", "--impl", "mine"], "no such implementation"),
    "dtype": (["--op", "gae", "--dtype", "float23"], "did you mean 'float32'?"),
    "device": (["--device", "cdua"], "did you mean 'cuda'?"),
    "dtype of one": (
        ["--op", "gae", "--op", "philox_uniform", "--dtype", "float32"],
        "philox_uniform is measured in float64 only",
    ),
    "shape": (["--op", "gae", "--shape", "5by7"], "a shape is whole numbers"),
    "shape of nothing": (["--op", "gae", "--shape", "0x7"], "a shape is whole numbers"),
    "too few axes": (["--op", "gae", "--shape", "7"], "They take gae BxT."),
    "no shape for one": (
        ["--op", "gae", "--op", "philox_uniform", "--shape", "7"],
        "--op gae: no --shape has 2 numbers. Give gae BxT.",
    ),
    "plot": (["--plot", "out.svg"], "ends in .html"),
    "file": (["--json", "."], "--json .: it cannot be written"),
    "a file as a directory": (
        ["--csv", f"{__file__}/new/out.csv"],
        "test_cli_kernels.py is a file, not a directory. Give another file.",
    ),
    # Two float32 inputs of 10^13 numbers come to 72.8 TiB, the mask and the rest to more.
    "memory": (
        ["--op", "gae", "--shape", "3x4", "--shape", "10000000x1000000"],
        "--shape 10000000x1000000: gae (forward), [10000000x1000000] float32 on cpu",
    ),
    "memory beyond counting": (
        ["--op", "philox_uniform", "--shape", "9" * 30],
        "take more than 1,024 PiB, ",
    ),
    "threads": (["--threads", "0"], "0 is not in the range"),
}


@pytest.mark.parametrize("fault", WRONG_ARGUMENTS)
def test_what_is_asked_for_wrongly_is_said_before_anything_is_measured(
    fault: str, bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlead_kernels.bench.Benchmark.run_case", None)
    arguments, said = WRONG_ARGUMENTS[fault]
    shown = bench(*arguments)
    assert shown.code == 2
    assert said in shown.err


def test_an_implementation_that_cannot_run_here_is_an_error_with_the_reason(
    bench: Run, plugin_file: PluginFile
) -> None:
    path = plugin_file("sunday", RIGHT.replace("priority=7", "available=lambda: 'not today'"))
    shown = bench("--op", "whiten", "--impl", "mine", "--shape", "3x4", "--plugin", path)
    assert shown.code == 1
    assert "nothing could be measured here (mine: not today)" in shown.err
    assert re.search(r"^mine +whiten +not today$", shown.out, re.M)


def test_a_busy_machine_is_said_to_be_busy(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for load, said in ((0.0, False), (1000.0, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        shown = bench("--op", "philox_uniform", "--shape", "5")
        assert ("the machine is busy (load 1000.0" in shown.err) == said


def test_a_shape_that_an_operation_refuses_is_an_error(
    bench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from fairlead_kernels import bench as library

    picky = [replace(one, refuse=lambda shape: "too small") for one in library.workloads()]
    monkeypatch.setattr(library, "workloads", lambda: picky)
    shown = bench("--op", "gae", "--shape", "3x4")
    assert shown.code == 2
    assert "--shape 3x4: gae does not take it: too small." in shown.err


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        ('"whiten/mine", lambda: whiten', "must be a factory that returns a fairlead.kernels.Kern"),
        ('"mine", lambda: Kernel(whiten)', "Register it as OP/NAME"),
    ],
)
def test_a_kernel_that_is_registered_wrongly_is_named_with_what_to_do(
    fairlead: Run, plugin_file: PluginFile, registered: str, message: str
) -> None:
    right = '"whiten/mine", lambda: Kernel(whiten, priority=7)'
    plugin = plugin_file("wrong", RIGHT.replace(right, registered))
    result = fairlead("kernels", "list", "--plugin", plugin)
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_a_kernel_may_be_registered_without_a_factory(
    fairlead: Run, plugin_file: PluginFile
) -> None:
    right = '"whiten/mine", lambda: Kernel(whiten, priority=7)'
    plugin = plugin_file("plain", RIGHT.replace(right, '"whiten/mine", Kernel(whiten)'))
    result = fairlead("kernels", "list", "--json", "--plugin", plugin)
    assert result.code == 0
    (row,) = [row for row in json.loads(result.out) if row["impl"] == "mine"]
    assert row["available"]


def test_a_kernel_whose_own_check_fails_hides_no_other(
    fairlead: Run, plugin_file: PluginFile
) -> None:
    check = "Kernel(whiten, supports=lambda x: None)"
    plugin = plugin_file("wrong", RIGHT.replace("Kernel(whiten, priority=7)", check))
    result = fairlead("kernels", "list", "--plugin", plugin)
    assert result.code == 0
    assert "whether it can run raised TypeError" in " ".join(result.out.split())
    assert "decode_attention" in result.out
