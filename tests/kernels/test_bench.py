import ctypes
import math
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from fairlead_kernels.bench import Benchmark, Case, run, workloads
from fairlead_kernels.bench.cases import _ALL
from fairlead_kernels.bench.draws import EDGE
from fairlead_kernels.bench.judge import exact_outputs, judge_for, measure_error
from fairlead_kernels.bench.machine import Machine, provenance
from fairlead_kernels.bench.memory import peak_bytes
from fairlead_kernels.bench.rows import COLUMNS
from fairlead_kernels.bench.timing import measure, quantile
from fairlead_kernels.bench.workload import Baseline, Cost, Inputs, Workload
from fairlead_kernels.dispatch import OWN, registry
from fairlead_kernels.token_logprobs import largest_entropy

CPU = torch.device("cpu")
LIMITS = {"copy": 1e10, "gemm": {torch.float32: 1e11}}
MACHINES = {("cpu", n): Machine(CPU, n, **LIMITS) for n in range(1, 65)}
"""Limits that need not be measured first."""
SHAPES = {
    ("N", "V"): (7, 130),
    ("N", "D", "V"): (5, 8, 67),
    ("B", "T"): (9, 13),
    ("B", "V"): (11, 1500),
    ("B",): (70,),
    ("B", "H", "Hkv", "S", "D"): (5, 4, 2, 9, 8),
}
ALL = [pytest.param(one, id=f"{one.op} {one.name}") for one in workloads()]
# With those that wait for their operation: plain torch and float64 need none.
EVERY = [pytest.param(one, id=f"{one.op} {one.name}") for one in _ALL]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers goes with it."""
    kept = {op: list(found) for op, found in registry._implementations.items()}
    monkeypatch.setattr(registry, "_implementations", kept)


def make(workload, dtype=None, shape=None):
    generator = torch.Generator().manual_seed(3)
    return workload.make(shape or SHAPES[workload.axes], dtype or workload.dtypes[0], generator)


def reference(workload):
    return partial(workload.public(), impl="reference")


def find(op, name="forward"):
    return next(one for one in workloads() if (one.op, one.name) == (op, name))


def register(op, name, function, owner="acme", priority=1):
    def runs(*args, **kwargs):
        return None

    registry.register(
        op, name, function, available=runs, supports=runs, priority=priority, owner=owner
    )


def case_of(op, name="forward", shape=None):
    workload = find(op, name)
    shape = shape or SHAPES[workload.axes]
    return Case(workload, shape, workload.dtypes[0], CPU, torch.get_num_threads())


def bench(case, *impls):
    benchmark = Benchmark(impls or None, seconds=1e-3, machines=MACHINES, compiled=False)
    return {row.impl: row for row in benchmark.run_case(case)}


# --- workloads ----------------------------------------------------------------------------------


def test_every_operation_has_a_workload():
    assert {one.op for one in workloads()} == set(registry.operations())


def test_a_workload_of_what_the_library_does_not_have_is_not_offered():
    assert not replace(find("gae"), op="tripel").offered()
    assert not replace(find("gae"), needs=("no_such_parameter",)).offered()


@pytest.mark.parametrize("workload", ALL)
def test_the_reference_is_right_in_every_dtype(workload):
    for dtype in workload.dtypes:
        verdict = judge_for(workload, make(workload, dtype))(reference(workload))
        assert verdict.problems == ()
        assert 0 <= verdict.max_error < 0.1


@pytest.mark.parametrize("workload", ALL)
def test_inputs_are_the_same_again_and_eager_runs_on_them(workload):
    one, two = make(workload), make(workload)
    for name, value in one.kwargs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two.kwargs[name])
    results = workload.call(workload.eager, one)
    assert set(results) - {f"d {name}" for name in one.leaves} <= set(workload.outputs)
    with torch.set_grad_enabled(bool(one.leaves)):
        workload.timed(workload.eager, one)()


@pytest.mark.parametrize("workload", [one for one in EVERY if one.values[0].split])
def test_float64_results_formed_in_parts_are_those_of_the_whole(workload, monkeypatch):
    inputs = make(workload)
    whole = exact_outputs(workload, inputs)
    # So small that each part is one row.
    monkeypatch.setattr("fairlead_kernels.bench.judge._PART", 1)
    parts = exact_outputs(workload, inputs)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-13)


def test_bytes_and_flops_by_hand():
    # Logits 7 x 130 float32 read, and 8 bytes of label and of results for each of 7 rows.
    forward = find("token_logprobs")
    assert forward.cost(make(forward)).bytes == 7 * 130 * 4 + 7 * 16
    backward = find("token_logprobs", "forward+backward")
    assert backward.cost(make(backward)).bytes == 3 * 7 * 130 * 4 + 7 * 16
    assert forward.cost(make(forward, torch.bfloat16)).bytes == 7 * 130 * 2 + 7 * 16
    # Two inputs where the mask counts; the mask, and two results, everywhere.
    gae = find("gae")
    inputs = make(gae)
    counted = int(inputs.kwargs["response_mask"].sum())
    assert 9 <= counted < 9 * 13
    assert gae.cost(inputs).bytes == 2 * 4 * counted + 9 * 13 * (1 + 2 * 4)


def test_a_sweep_varies_one_axis_at_a_time():
    shapes = find("gae").sweep((64, 32))
    assert shapes[:5] == [(4, 32), (8, 32), (16, 32), (32, 32), (64, 32)]
    assert shapes[5:] == [(64, 2), (64, 4), (64, 8), (64, 16)]
    assert find("gae").sweep((1, 1)) == [(1, 1)]


# --- the gate -----------------------------------------------------------------------------------


def spoilt(workload, at, change):
    """The reference with one of its results changed."""

    def function(**kwargs):
        results = workload.public()(**kwargs, impl="reference")
        if isinstance(results, torch.Tensor):
            return change(results)
        return (*results[:at], change(results[at]), *results[at + 1 :])

    return function


def tensors(workload):
    """Places of plain results; a dataclass of metrics comes after them."""
    return range(min(2, len(workload.outputs)))


@pytest.mark.parametrize("workload", ALL)
def test_a_result_that_is_off_is_wrong(workload):
    inputs = make(workload)
    judge = judge_for(workload, inputs)
    for at in tensors(workload):
        if workload.op == "sample" and at == 0:
            continue
        name = workload.outputs[at]
        found = judge(spoilt(workload, at, lambda x: x * 1.001 + 1e-4))
        assert any(problem.startswith(name) for problem in found.problems)
        assert math.isnan(found.max_error) or found.max_error > 0


@pytest.mark.parametrize("workload", ALL)
def test_results_of_another_shape_nan_or_left_out_are_wrong(workload):
    judge = judge_for(workload, make(workload))
    # With a backward, another shape is an error of autograd's.
    changes = [] if make(workload).leaves else [lambda x: x.unsqueeze(0)]
    if workload.op != "sample":
        changes.append(lambda x: x * math.nan)
    for change in changes:
        assert judge(spoilt(workload, 0, change)).problems
    if workload.outputs[1:] and workload.op not in ("sample", "ppo_policy_loss", "ppo_value_loss"):
        shorter = judge(lambda **kwargs: workload.public()(**kwargs, impl="reference")[:1])
        assert f"{workload.outputs[1]} is missing" in shorter.problems


@pytest.mark.parametrize(
    "workload",
    [
        one
        for one in ALL
        if one.values[0]
        .make(SHAPES[one.values[0].axes], one.values[0].dtypes[0], torch.Generator())
        .leaves
    ],
)
def test_a_wrong_gradient_is_wrong(workload):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 2

    def function(**kwargs):
        name = make(workload).leaves[0]
        changed = {**kwargs, name: Halved.apply(kwargs[name])}
        return workload.public()(**changed, impl="reference")

    (problem,) = judge_for(workload, make(workload))(function).problems
    assert problem.startswith(f"d {make(workload).leaves[0]} is off by")


@pytest.mark.parametrize("workload", [one for one in ALL if one.values[0].spoil])
def test_influence_of_what_does_not_count_is_wrong(workload):
    """It computes the right thing, but lets NaN through where the mask is False."""
    inputs = make(workload)
    name = next(key for key, value in workload.spoil(inputs).kwargs.items()
                if isinstance(value, torch.Tensor) and value.isnan().any())  # fmt: skip

    def function(**kwargs):
        taint = kwargs[name].isnan().any() * torch.ones(())
        first, *rest = workload.call(partial(workload.public(), impl="reference"),
                                     Inputs(kwargs)).values()  # fmt: skip
        return (first.masked_fill(taint.bool(), 7.0), *rest)

    forward = replace(inputs, leaves=(), upstream={})
    (problem,) = judge_for(workload, forward)(function).problems
    assert problem == f"NaN where nothing counts changes {workload.outputs[0]}"


def test_exact_properties_are_held_however_small_the_error():
    workload = find("token_logprobs")
    # One certain token: log-probability 0 and entropy 0.
    logits = torch.full((1, 4), -math.inf)
    logits[0, 2] = 1.0
    inputs = Inputs({"logits": logits, "labels": torch.tensor([2])})
    workload = replace(workload, plain=lambda logits, labels: _zeros(logits), split=())
    judge = judge_for(workload, inputs)
    assert judge(lambda **_: (torch.zeros(1), torch.zeros(1))).problems == ()
    tiny = torch.full((1,), 1e-45)
    assert judge(lambda **_: (tiny, torch.zeros(1))).problems == ("a log-probability is above 0",)
    assert judge(lambda **_: (torch.zeros(1), -tiny)).problems == (
        "an entropy is not in [0, log V]",
    )


def _zeros(logits):
    return logits.new_zeros(1), logits.new_zeros(1)


def test_values_outside_the_mask_must_be_zero():
    workload = find("whiten")
    inputs = make(workload)
    outside = ~inputs.kwargs["mask"]
    tiny = spoilt(workload, 0, lambda x: x.masked_fill(outside, 1e-45))
    assert judge_for(workload, inputs)(tiny).problems == ("result is not 0 outside the response",)


def test_the_rule_by_hand():
    """Plain torch is off by 1e-3, so 2e-3 is let through; or 4 ulp, which at 1 are 4.8e-7."""
    exact = torch.ones(3, dtype=torch.float64)
    right = exact.clone()
    right[1] += 1.9e-3
    assert measure_error("x", right, 1e-3, exact)[1] is None
    right[1] += 0.2e-3
    row, problem = measure_error("x", right, 1e-3, exact)
    assert problem == "x is off by 2.10e-03, allowed are 2.00e-03 in 1 of 3 places"
    assert row == pytest.approx((2.1e-3, 1e-3, 2e-3))
    ulp = 2.0**-23
    assert measure_error("x", exact + 4 * ulp, 0.0, exact)[1] is None
    assert measure_error("x", exact + 5 * ulp, 0.0, exact)[1] is not None
    # Where terms of size 1000 were added up, an ulp is one of them.
    terms = torch.full_like(exact, 1000.0)
    assert measure_error("x", exact + 5 * ulp, 0.0, exact, terms)[1] is None


def test_infinities_are_right_where_they_belong():
    exact = torch.tensor([-math.inf, 1.0], dtype=torch.float64)
    assert measure_error("x", exact.float(), 0.0, exact)[1] is None
    assert measure_error("x", torch.tensor([-1e30, 1.0]), 0.0, exact)[1] is not None
    assert measure_error("x", torch.tensor([-math.inf, math.inf]), 0.0, exact)[1] is not None


# --- the sampler's gate -------------------------------------------------------------------------


def draw(logits, u, top_k=0, top_p=1.0):
    """A sampler in float32 weights: top-k, top-p, and the inverse of the distribution."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, order = logits.softmax(1).double().sort(1, descending=True)
        out = torch.zeros_like(logits, dtype=torch.bool)
        out.scatter_(1, order, ordered.cumsum(1) - ordered >= top_p)
        logits = logits.masked_fill(out, -math.inf)
    logprobs = logits.log_softmax(1)
    running = logprobs.exp().double().cumsum(1)
    token = torch.searchsorted(running, (u * running[:, -1]).unsqueeze(1), right=True).squeeze(1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs == -math.inf, 0)).sum(1)
    return token, logprobs.gather(1, token.unsqueeze(1)).squeeze(1), entropy


def cut(top_k=0, top_p=1.0, scale=1.0):
    """The sampler's workload with truncation, whether or not the library can do it yet."""
    workload = find("sample", "N(0,1)")
    kwargs = {**make(workload, shape=(200, 1500)).kwargs, "top_k": top_k, "top_p": top_p}
    return workload, Inputs({**kwargs, "logits": kwargs["logits"] * scale})


CUTS = [{}, {"top_p": 0.9}, {"top_k": 50}, {"top_k": 40, "top_p": 0.5}, {"top_p": 0.9, "scale": 4}]


@pytest.mark.parametrize("settings", CUTS)
def test_a_sampler_is_right_with_any_truncation(settings):
    workload, inputs = cut(**settings)
    verdict = judge_for(workload, inputs)(draw)
    assert verdict.problems == ()
    assert verdict.remark == ""


@pytest.mark.parametrize("settings", CUTS)
def test_a_draw_of_the_next_token_is_wrong(settings):
    workload, inputs = cut(**settings)

    def next_token(**kwargs):
        token, logprob, entropy = draw(**kwargs)
        return token.clone().index_add_(0, torch.tensor([3]), torch.tensor([1])), logprob, entropy

    problems = judge_for(workload, inputs)(next_token).problems
    assert problems[0] == "1 of 200 draws are not those of the sampler"


@pytest.mark.parametrize("settings", CUTS[1:])
def test_a_sampler_that_does_not_truncate_is_wrong(settings):
    workload, inputs = cut(**settings)
    whole = judge_for(workload, inputs)(lambda logits, u, **_: draw(logits, u))
    assert "draws are not those of the sampler" in whole.problems[0]
    # The log-probability must be that of the distribution drawn from.
    found = judge_for(workload, inputs)(
        lambda **kwargs: (draw(**kwargs)[0], *draw(kwargs["logits"], kwargs["u"])[1:])
    )
    assert [problem.split()[0] for problem in found.problems] == ["logprob", "entropy"]


def test_a_draw_within_rounding_of_an_edge_is_let_through_and_counted():
    # Two tokens of probability 1/2: their edge lies at 0.5.
    workload = find("sample", "N(0,1)")
    logits, entropy = torch.zeros(2, 2), torch.full((2,), largest_entropy(2))
    logprob = -entropy

    def verdict(off):
        u = torch.tensor([0.5 - off, 0.5 + off], dtype=torch.float64)
        judge = judge_for(workload, Inputs({"logits": logits, "u": u}))
        return judge(lambda **_: (torch.tensor([1, 0]), logprob, entropy))

    assert verdict(EDGE / 2).problems == ()
    assert verdict(EDGE / 2).remark == "2 draws within rounding of an edge"
    assert verdict(EDGE * 2).problems == ("2 of 2 draws are not those of the sampler",)


def test_a_token_that_is_none_is_wrong():
    workload, inputs = cut()
    rest = draw(**inputs.kwargs)[1:]
    for token in (torch.full((200,), 1500), torch.full((200,), -1), torch.zeros(200)):
        assert judge_for(workload, inputs)(lambda token=token, **_: (token, *rest)).problems


def test_uniform_numbers_are_right_to_the_bit():
    workload = find("philox_uniform")
    judge = judge_for(workload, make(workload))
    assert judge(reference(workload)).problems == ()
    assert judge(spoilt(workload, 0, lambda u: u + 2.0**-53)).problems


# --- the clock and memory -----------------------------------------------------------------------


def test_calls_are_timed_in_turns_of_changing_order():
    order = []

    def slow(name):
        order.append(name)
        time.sleep(0.012)  # longer than a turn: one sample in each

    found = measure({"a": partial(slow, "a"), "b": partial(slow, "b")}, CPU, seconds=1e-6)
    # Warm-up, a look at how long each takes, and the fewest turns, three.
    assert "".join(order) == "aabb" + "abbaab"
    assert all(len(samples.seconds) == 3 for samples in found.values())
    assert all(seconds >= 0.012 for seconds in found["a"].seconds)
    assert measure({}, CPU) == {}


def test_a_quick_call_is_timed_many_at_a_time():
    count = []
    found = measure({"": lambda: count.append(1)}, CPU, seconds=1e-6)
    assert len(count) > 10 * len(found[""].seconds) > 0


def test_quantiles_by_hand():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.2) == pytest.approx(2.0)
    assert quantile([4.0], 0.8) == 4.0


def test_peak_memory_is_what_is_held_at_a_time():
    x = torch.zeros(1 << 20)

    def two_at_a_time():
        y = x + 1
        y = y * 2
        return y + 1

    mib = 1 << 20
    assert 8 * mib <= peak_bytes(two_at_a_time, CPU) < 9 * mib
    assert 4 * mib <= peak_bytes(lambda: x + 1, CPU) < 5 * mib
    assert peak_bytes(lambda: x.add_(1), CPU) < mib


def test_limits_are_measured_once_and_the_floor_is_the_higher_of_two():
    machine = Machine(CPU, 1)
    machine.measure(torch.float32, products=False)
    assert machine.copy > 1e7
    assert machine.gemm == {}
    before = machine.copy
    machine.measure(torch.float32, products=True)
    assert machine.copy == before
    assert machine.gemm[torch.float32] > 1e7
    known = Machine(CPU, 1, copy=100.0, gemm={torch.float32: 10.0})
    # 200 bytes at 100 a second; 50 FLOP at 10 a second.
    assert known.floor(Cost(200, 50), torch.float32) == 2.0
    assert known.floor(Cost(200, 50, products=True), torch.float32) == 5.0
    assert known.floor(Cost(200, 10, products=True), torch.float32) == 2.0


def test_provenance_names_what_the_numbers_depend_on():
    facts = provenance("fairlead bench kernels")
    assert facts["command"] == "fairlead bench kernels"
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["cpus"] >= 1
    assert {"commit", "cpu", "gpus", "driver", "cuda", "date", "native"} <= set(facts)


def test_memory_that_torch_does_not_know_of_is_seen():
    def native():
        block = ctypes.create_string_buffer(1)
        ctypes.resize(block, 64 << 20)
        ctypes.memset(block, 1, 64 << 20)

    native()
    assert 60 << 20 <= peak_bytes(native, CPU) < 80 << 20


# --- a case -------------------------------------------------------------------------------------


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


def test_a_shape_that_is_none_is_refused():
    shapes = [one for one in workloads() if one.refuse is not None]
    for one in shapes:
        assert one.refuse((2, 6, 4, 8, 8)) == "6 heads are no multiple of 4"
        assert one.refuse((2, 6, 3, 8, 8)) is None


@pytest.mark.parametrize("workload", EVERY)
def test_plain_torch_is_right_by_its_own_rule(workload):
    inputs = make(workload)
    assert isinstance(workload, Workload)
    assert workload.cost(inputs).bytes > 0
    if workload.op not in ("sample", "philox_uniform"):
        judge = judge_for(replace(workload, spoil=None), inputs)
        assert judge(workload.plain or workload.eager).problems == ()
