"""The gate: nothing wrong is timed."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from benches import (
    ALL,
    SHAPES,
    find,
    make,
    reference,
    spoilt,
    tensors,
)

from fairlead_kernels.bench.judge import judge_for, measure_error
from fairlead_kernels.bench.workload import Inputs


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


def test_a_kernel_that_writes_its_input_is_wrong():
    workload = find("gae")
    inputs = make(workload)
    judge = judge_for(workload, inputs)
    before = inputs.kwargs["values"].clone()

    def writes(**kwargs):
        results = reference(workload)(**kwargs)
        kwargs["values"].add_(1.0)
        return results

    assert judge(writes).problems[0] == "it writes to its input values"
    # The next one is judged on the inputs as they were.
    assert torch.equal(inputs.kwargs["values"], before)
    assert judge(reference(workload)).problems == ()


def test_a_nan_that_is_left_alone_is_not_written_and_another_bit_in_it_is():
    workload = find("whiten")
    workload = replace(workload, plain=reference(workload), spoil=None)
    inputs = make(workload)
    x = inputs.kwargs["x"]
    outside = ~inputs.kwargs["mask"]
    x.masked_fill_(outside, math.nan)
    assert judge_for(workload, inputs)(reference(workload)).problems == ()

    def writes(x, mask):
        result = reference(workload)(x=x, mask=mask)
        x.view(torch.int32)[outside] += 1
        return result

    assert judge_for(workload, inputs)(writes).problems == ("it writes to its input x",)


@pytest.mark.parametrize("name", ["logits", "gradient of logprobs"])
def test_a_backward_that_writes_is_wrong(name):
    workload = find("token_logprobs", "forward+backward")
    inputs = make(workload)

    class Writes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logprobs, logits):
            ctx.logits = logits
            return logprobs.clone()

        @staticmethod
        def backward(ctx, grad):
            result = grad.clone()
            (ctx.logits.detach() if name == "logits" else grad).zero_()
            return result, None

    def writes(logits, labels):
        logprobs, entropy = reference(workload)(logits=logits, labels=labels)
        return Writes.apply(logprobs, logits.detach()), entropy

    assert f"it writes to its input {name}" in judge_for(workload, inputs)(writes).problems
