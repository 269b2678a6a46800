"""Workloads of the benchmark."""

from dataclasses import replace

import pytest
import torch
from benches import (
    ALL,
    EVERY,
    find,
    make,
    reference,
)

from fairlead_kernels.bench import workloads
from fairlead_kernels.bench.judge import exact_outputs, judge_for
from fairlead_kernels.bench.workload import Workload
from fairlead_kernels.dispatch import registry


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
