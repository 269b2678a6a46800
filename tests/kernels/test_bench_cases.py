"""Cases of the benchmark, run."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from benches import (
    MACHINES,
    SHAPES,
    bench,
    case_of,
    find,
    register,
)

from fairlead_kernels.bench import Benchmark, run
from fairlead_kernels.bench.rows import COLUMNS
from fairlead_kernels.bench.workload import Baseline, Cost
from fairlead_kernels.dispatch import OWN, registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers goes with it."""
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)


def test_a_wrong_kernel_is_caught_and_not_timed():
    def wrong(*args):
        return tuple(x + 1e-3 for x in registry.call("gae", "reference", *args))

    register("gae", "wrong", wrong)
    rows = bench(case_of("gae"))
    assert rows["wrong"].status == "wrong"
    assert rows["wrong"].reason.startswith("advantages is off by 1.0")
    assert rows["wrong"].median_ms is None
    assert rows["wrong"].speedup_vs_eager is None
    assert rows["wrong"].max_error == pytest.approx(1e-3, rel=0.1)
    assert rows["reference"].status == "timed"


def test_a_kernel_that_breaks_is_shown_and_the_others_run():
    def broken(*args):
        raise ZeroDivisionError("no luck\nat all")

    register("gae", "broken", broken)
    rows = bench(case_of("gae"))
    assert (rows["broken"].status, rows["broken"].reason) == (
        "failed",
        "ZeroDivisionError: no luck",
    )
    assert rows["reference"].status == rows["eager"].status == "timed"


def test_a_row_says_all_that_was_measured():
    row = bench(case_of("token_logprobs", "forward+backward"), "reference")["reference"]
    assert row.p20_ms <= row.median_ms <= row.p80_ms
    assert row.samples >= 3
    assert row.peak_bytes >= 7 * 130 * 4
    assert row.speedup_vs_eager > 0
    assert row.fraction_of_roofline == pytest.approx(row.floor_ms / row.median_ms)
    assert row.fraction_of_copy == pytest.approx(row.fraction_of_roofline)
    assert row.fraction_of_gemm is None
    assert set(row.errors) == {"logprobs", "entropy", "d logits"}
    assert (row.dtype, row.shape, row.device) == ("float32", (7, 130), "cpu")
    assert row.loss == (row.speedup_vs_eager < 1)
    assert len(row.as_cells()) == len(COLUMNS)


def test_matrix_products_are_held_against_a_matrix_product():
    workload = replace(find("gae"), cost=lambda inputs: Cost(8, 10**9, products=True))
    rows = bench(replace(case_of("gae"), workload=workload))
    assert rows["eager"].fraction_of_gemm > 0
    assert rows["eager"].fraction_of_roofline == pytest.approx(rows["eager"].fraction_of_gemm)


def test_what_cannot_run_is_left_out_with_its_own_reason():
    rows = bench(case_of("gae"))
    if not torch.cuda.is_available():
        assert rows["cuda"].status == "skipped"
        assert "impl=" not in rows["cuda"].reason
    registry.register(
        "gae",
        "picky",
        lambda *args: None,
        available=lambda: None,
        supports=lambda *args: "only on Sundays",
        priority=1,
        owner="acme",
    )
    assert bench(case_of("gae"))["picky"].reason == "only on Sundays"


def test_interpreted_triton_is_not_timed(monkeypatch):
    monkeypatch.setattr(run, "INTERPRETED", True)

    def must_not_run(*args):
        raise AssertionError

    others = [one for one in registry._implementations["kl_rewards"] if one.name != "triton"]
    registry._implementations["kl_rewards"] = others
    register("kl_rewards", "triton", must_not_run, owner=OWN)
    row = bench(case_of("kl_rewards"))["triton"]
    assert row.status == "skipped"
    assert "interprets" in row.reason


def test_without_an_implementation_to_time_no_baseline_is():
    if not torch.cuda.is_available():
        assert list(bench(case_of("gae"), "cuda")) == ["cuda"]


def test_baselines_that_are_not_there_are_left_out_with_the_reason(monkeypatch):
    rows = bench(case_of("token_logprobs", "forward+backward"))
    if rows["liger_kernel"].status == "skipped":
        assert rows["liger_kernel"].reason == "liger_kernel is not installed"

    def no_compiler(*args, **kwargs):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    benchmark = Benchmark(seconds=1e-3, machines=MACHINES)
    rows = {row.impl: row for row in benchmark.run_case(case_of("whiten"))}
    assert rows["torch.compile"].reason == "RuntimeError: no working C++ compiler"
    assert rows["reference"].speedup_vs_compile is None
    long = case_of("gae", shape=(2, 300))
    rows = {row.impl: row for row in benchmark.run_case(long)}
    assert "300 steps" in rows["torch.compile"].reason


def test_a_baseline_that_is_an_implementation_is_measured_once():
    register("philox_uniform", "other", partial(registry.call, "philox_uniform", "reference"))
    case = case_of("philox_uniform")
    both = Baseline("other", lambda inputs: lambda: None), Baseline("more", lambda inputs: int)
    rows = Benchmark(None, 1e-3, False, MACHINES).run_case(
        replace(case, workload=replace(case.workload, baselines=both))
    )
    found = [(row.kind, row.impl) for row in rows]
    assert found.count(("implementation", "other")) == 1
    assert ("baseline", "other") not in found
    assert ("baseline", "more") in found


def test_torch_compile_is_a_baseline_where_it_runs(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    benchmark = Benchmark(seconds=1e-3, machines=MACHINES)
    rows = {row.impl: row for row in benchmark.run_case(case_of("whiten"))}
    assert rows["torch.compile"].status == "timed"
    assert rows["reference"].speedup_vs_compile > 0


def test_threads_are_those_asked_for_and_put_back():
    seen = []
    register("whiten", "spy", lambda *args: _spy(seen, args))
    before = torch.get_num_threads()
    case = replace(case_of("whiten"), threads=before + 1)
    ((*_,),) = Benchmark(("spy",), seconds=1e-3, machines=MACHINES, compiled=False).run([case])
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def _spy(seen, args):
    seen.append(torch.get_num_threads())
    return registry.call("whiten", "reference", *args)


def test_the_gate_runs_at_a_smaller_shape_where_the_workload_says_so():
    seen = []

    def spy(*args):
        seen.append(len(args[0]))
        return registry.call("gae", "reference", *args)

    register("gae", "spy", spy)
    case = case_of("gae")
    smaller = replace(case.workload, gated=lambda shape: (3, shape[1]))
    row = bench(replace(case, workload=smaller), "spy")["spy"]
    assert seen[0] == 3
    assert set(seen) == {3, SHAPES["B", "T"][0]}
    assert (row.status, row.reason) == ("timed", "gate at 3x13")
