"""Cases of the benchmark that do not fit into memory, whole or in part."""

import gc
from dataclasses import replace

import pytest
import torch
from benches import ALL, CPU, SHAPES, bench, case_of, find, make, register

from fairlead_kernels.bench import Benchmark, room, run
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.bench.room import Need, estimate, free_bytes, human, ran_out
from fairlead_kernels.dispatch import registry

PLENTY = 1 << 60


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)


@pytest.fixture
def counted(monkeypatch):
    """Small cases are counted too."""
    monkeypatch.setattr(room, "_AMPLE", PLENTY)


def need(workload, shape):
    return estimate(workload, shape, workload.dtypes[0], CPU, PLENTY)


def test_the_inputs_and_what_plain_torch_holds_are_counted(counted):
    """Logits of 40x1000 float32, 160 kB. Plain torch has their log-softmax beside them.

    float64 results come from the logits in float64, their log-softmax, its exponential and the
    product of both: at least another 8 of 160 kB.
    """
    found = need(find("token_logprobs"), (40, 1000))
    assert 320_000 <= found.eager < 340_000
    assert 8 * 160_000 <= found.gate < 12 * 160_000


@pytest.mark.parametrize("workload", ALL)
def test_what_is_counted_is_about_what_is_taken(workload, counted):
    shape = {
        ("N", "V"): (30, 5000),
        ("N", "D", "V"): (60, 16, 3000),
        ("N", "D"): (300, 100),
        ("B", "T"): (500, 40),
        ("B", "V"): (20, 5000),
        ("N", "I", "O"): (8, 300, 400),
        ("B",): (30_000,),
        ("B", "H", "Hkv", "S", "D"): (5, 4, 2, 300, 16),
    }[workload.axes]
    inputs = make(workload, shape=shape)
    given = [*inputs.kwargs.values(), *inputs.upstream.values()]
    held = sum(one.nbytes for one in given if isinstance(one, torch.Tensor))
    workload.call(workload.eager, inputs)
    gc.collect()
    taken = held + peak_bytes(lambda: workload.call(workload.eager, inputs), CPU)
    found = need(workload, shape)
    # One operation's own temporaries, as in multinomial, are not seen.
    assert 0.5 * taken < found.eager < 2 * taken
    assert found.gate > held


def test_more_rows_of_a_kind_take_as_much_more(counted):
    """Also along the axis that plain torch walks in a loop, of which a part is counted."""
    for shape in ((64, 256), (512, 32)):
        once, more = (need(find("gae"), size) for size in (shape, (shape[0], 16 * shape[1])))
        assert more.eager == pytest.approx(16 * once.eager, rel=0.2)


def test_what_has_ample_room_is_not_counted():
    assert need(find("gae"), (512, 256)) is None


def test_a_size_that_torch_cannot_count_is_too_large():
    assert need(find("gae"), (10**19, 10**15)) == Need(float("inf"), float("inf"))


def test_a_case_that_does_not_fit_is_left_out_before_it_is_made(monkeypatch, counted):
    monkeypatch.setattr(run, "free_bytes", lambda device: 10_000)
    case = case_of("gae", shape=(64, 64))
    never = replace(case.workload, judge=lambda *_: pytest.fail("it was begun"))
    rows = bench(replace(case, workload=never))
    assert {"reference"} <= set(rows)
    for row in rows.values():
        assert row.status == "skipped"
        assert row.reason.startswith("its inputs and the check against float64 take about 0.")
        assert row.reason.endswith("about 0.00954 MiB are free")


def test_plain_torch_alone_is_left_out_where_it_alone_does_not_fit(monkeypatch, counted):
    case = case_of("linear_logprobs", "forward+backward")
    monkeypatch.setattr(run, "estimate", lambda *_: Need(gate=1 << 20, eager=1 << 40))
    monkeypatch.setattr(run, "free_bytes", lambda device: 1 << 30)
    register(
        "linear_logprobs", "mine", lambda *a: registry.call("linear_logprobs", "reference", *a)
    )
    rows = bench(case, "reference", "mine")
    assert rows["mine"].status == "timed"
    assert rows["mine"].speedup_vs_eager is None
    for name in ("eager", "reference"):
        assert rows[name].status == "skipped"
        assert rows[name].reason == "plain torch takes about 1 TiB here, about 1 GiB are free"


def runs_out(*_args):
    """As it is: no machine has an exabyte."""
    return torch.empty(1 << 58)


def test_an_implementation_that_runs_out_of_memory_is_skipped_with_the_reason():
    register("whiten", "greedy", runs_out)
    rows = bench(case_of("whiten"))
    assert rows["greedy"].status == "skipped"
    assert rows["greedy"].reason.startswith("memory ran out: RuntimeError: ")
    assert "1152921504606846976 bytes" in rows["greedy"].reason  # 4 * 2^58
    assert rows["reference"].status == "timed"


def test_one_that_runs_out_at_the_whole_size_alone_is_skipped_as_well():
    """The gate of linear_logprobs runs on fewer rows than the clock."""
    workload = replace(find("linear_logprobs"), gated=lambda shape: (2, *shape[1:]))

    def greedy(hidden, *others):
        if len(hidden) > 2:
            runs_out()
        return registry.call("linear_logprobs", "reference", hidden, *others)

    register("linear_logprobs", "greedy", greedy)
    rows = bench(replace(case_of("linear_logprobs"), workload=workload), "greedy", "reference")
    assert rows["greedy"].status == "skipped"
    assert rows["greedy"].reason.startswith("memory ran out")
    assert rows["greedy"].median_ms is None
    assert rows["reference"].median_ms > 0


def test_inputs_that_run_out_of_memory_leave_the_case_out():
    workload = replace(find("whiten"), make=runs_out)
    rows = bench(replace(case_of("whiten"), workload=workload))
    assert {row.status for row in rows.values()} == {"skipped"}


def test_other_errors_are_no_shortage():
    workload = replace(find("whiten"), make=lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench(replace(case_of("whiten"), workload=workload))
    assert not ran_out(RuntimeError("no luck"))
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))


def test_the_free_memory_is_what_the_system_or_a_container_leaves(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(room, "_MEMORY", meminfo)
    monkeypatch.setattr(room, "_GROUP", tmp_path)
    assert free_bytes(CPU) is None
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert free_bytes(CPU) == 5_120_000
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 5_120_000
    (tmp_path / "memory.max").write_text("4000000\n")
    assert free_bytes(CPU) == 3_000_000


def test_without_knowing_what_is_free_a_case_is_tried(monkeypatch, counted):
    monkeypatch.setattr(run, "free_bytes", lambda device: None)
    assert bench(case_of("whiten"))["reference"].status == "timed"


def test_bytes_for_people():
    shown = [human(count) for count in (3 << 19, 5 << 30, 1 << 50, 1 << 61)]
    assert shown == ["about 1.5 MiB", "about 5 GiB", "about 1 PiB", "more than 1,024 PiB"]


def test_a_case_is_counted_once(monkeypatch):
    counts = []
    monkeypatch.setattr(run, "estimate", lambda *given: counts.append(given))
    benchmark = Benchmark()
    for shape in (SHAPES["B", "T"], SHAPES["B", "T"], (1, 1)):
        benchmark.shortage(case_of("gae", shape=shape))
    assert len(counts) == 2
