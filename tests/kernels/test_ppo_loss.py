import math

import pytest
import torch
from cases import (  # noqa: F401
    CPU_IMPLS,
    IMPLS,
    ODD_ROWS,
    instruction_set,
    needs_interpreter,
    needs_native,
    normal,
    ragged,
)
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import ppo_policy_loss, ppo_value_loss
from fairlead_kernels.ppo_loss import _policy_reference, _value_reference

LOSSES = [ppo_policy_loss, ppo_value_loss]
KERNELS = [
    pytest.param("cpp", marks=needs_native),
    pytest.param("triton", marks=needs_interpreter),
]


def check(actual, exact):
    exact = torch.tensor(exact, dtype=torch.float64)
    assert_within_error_rule(actual.detach(), exact.float(), exact)


def outcome(function, first, *rest, **settings_):
    """The loss, its weight, the sums for metrics and the gradient."""
    first = first.detach().clone().requires_grad_()
    loss, weight, metrics = function(first, *rest, **settings_)
    loss.backward()
    return [loss.detach(), weight, *vars(metrics).values(), first.grad]


@pytest.mark.parametrize("impl", IMPLS)
def test_policy_loss_by_hand(impl):
    # ratios 1.5, 1.5, 0.5, 1 with A = 1, -1, 1, 2 and clip 0.2:
    #   max(-1.5, -1.2) = -1.2 (clipped); max(1.5, 1.2) = 1.5; max(-0.5, -0.8) = -0.5; -2.
    # Sum -2.2 over 4 positions; the fifth is masked.
    ratio = torch.tensor([1.5, 1.5, 0.5, 1.0, 1.0])
    advantages = torch.tensor([1.0, -1.0, 1.0, 2.0, 100.0])
    mask = torch.tensor([True, True, True, True, False])
    logprobs = ratio.log().requires_grad_(True)
    loss, weight, metrics = ppo_policy_loss(logprobs, torch.zeros(5), advantages, mask, impl=impl)
    check(loss, -2.2)
    assert weight.item() == 4
    check(metrics.ratio, 4.5)
    check(metrics.ratio_sq, 1.5**2 + 1.5**2 + 0.5**2 + 1)
    assert metrics.clipfrac.item() == 1
    check(metrics.approxkl, 0.5 * (2 * math.log(1.5) ** 2 + math.log(0.5) ** 2))
    loss.backward()
    # d/d logp of -A ratio is -A ratio; none through the clipped term; full at ratio 1.
    check(logprobs.grad, [0.0, 1.5, -0.5, -2.0, 0.0])


@pytest.mark.parametrize("impl", IMPLS)
def test_value_loss_by_hand(impl):
    # V_old = 0, clip 0.2. V = 1, R = 2: max(1, (0.2 - 2)^2 = 3.24) = 3.24 (clipped, no gradient).
    # V = 1, R = -1: max(4, 1.2^2) = 4. V = 0.1, R = 0: 0.01. Half the sum is 3.625.
    values = torch.tensor([1.0, 1.0, 0.1, 7.0], requires_grad=True)
    returns = torch.tensor([2.0, -1.0, 0.0, 0.0])
    mask = torch.tensor([True, True, True, False])
    loss, weight, metrics = ppo_value_loss(values, torch.zeros(4), returns, mask, impl=impl)
    check(loss, 3.625)
    assert weight.item() == 3
    assert metrics.clipfrac.item() == 1
    loss.backward()
    check(values.grad, [0.0, 2.0, 0.1, 0.0])


@pytest.mark.parametrize("impl", IMPLS)
def test_value_clipping_can_be_turned_off(impl):
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    zeros, mask = torch.zeros(2), torch.ones(2, dtype=torch.bool)
    loss, _, metrics = ppo_value_loss(values, zeros, zeros, mask, clip=None, impl=impl)
    assert loss.item() == 5.0
    assert metrics.clipfrac.item() == 0
    loss.backward()
    assert torch.equal(values.grad, torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("impl", KERNELS)
def test_the_gradient_at_a_tie_is_torchs(impl):
    """Equal terms share it: A = 0, a ratio on the clip's edge, a clip of 0, equal value errors."""
    mask = torch.ones(4, dtype=torch.bool)
    logprobs = torch.tensor([1.0, 0.0, 0.5, 0.0])
    advantages = torch.tensor([0.0, 1.0, math.inf, -2.0])
    for clip in (0.0, 0.2, 1.0):
        ours, reference = (
            outcome(ppo_policy_loss, logprobs, torch.zeros(4), advantages, mask, clip, impl=one)
            for one in (impl, "reference")
        )
        assert torch.allclose(ours[-1], reference[-1], rtol=1e-6, equal_nan=True)
    # |V - R| = |clip(V) - R| = 1, V = 1 and the clip at -1, R = 0: half of V - R goes through.
    values, old = torch.tensor([1.0, 0.25]), torch.tensor([-1.5, 0.0])
    result = outcome(ppo_value_loss, values, old, torch.zeros(2), mask[:2], 0.5, impl=impl)
    assert torch.equal(result[-1], torch.tensor([0.5, 0.25]))


@pytest.mark.parametrize("impl", CPU_IMPLS)
@settings(max_examples=60, deadline=None)
@given(case=ragged())
def test_nan_outside_the_mask_reaches_no_value_and_no_gradient(impl, case):
    """Fidelity item 20: the input of exp is masked, since where on its output alone gives NaN."""
    mask, seed = case
    base = [normal(*mask.shape, seed=seed + i) for i in range(3)]
    for function in LOSSES:
        results = []
        for fill in (0.0, math.nan, math.inf):
            inputs = [x.masked_fill(~mask, fill) for x in base]
            results.append(outcome(function, *inputs, mask, impl=impl))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        assert not bool(results[0][-1][~mask].any())


@needs_interpreter
@pytest.mark.parametrize("function", LOSSES)
def test_nan_outside_the_mask_is_not_read_in_triton(function):
    """Fidelity item 20."""
    mask = normal(3, 500, seed=4) > 0
    inputs = [normal(3, 500, seed=i) for i in range(3)]
    clean, dirty = (
        outcome(function, *(x.masked_fill(~mask, fill) for x in inputs), mask, impl="triton")
        for fill in (0.0, math.nan)
    )
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # The interpreter's.
def test_nan_inside_the_mask_is_not_hidden(function, place, impl):
    inputs = [torch.ones(6) * 0.5 for _ in range(3)]
    inputs[place][3] = math.nan
    mask = torch.tensor([True] * 5 + [False])
    loss, weight, *_, grad = outcome(function, *inputs, mask, impl=impl)
    assert loss.isnan()
    assert weight == 5
    reference = outcome(function, *inputs, mask, impl="reference")[-1]
    assert torch.equal(grad.isnan(), reference.isnan())
    assert torch.equal(grad.nan_to_num(9.0), reference.nan_to_num(9.0))


@pytest.mark.parametrize("impl", CPU_IMPLS)
def test_sums_of_microbatches_are_the_sum_of_the_batch(impl):
    """Fidelity item 22's ground: sums and weights, so that parts of unequal size add up."""
    x = [torch.tensor([0.5, -0.25, 0.125, 0.75]) * k for k in (1.0, 0.5, 2.0)]
    mask = torch.tensor([True, True, False, True])
    whole = ppo_value_loss(*x, mask, impl=impl)
    halves = (slice(0, 1), slice(1, 4))
    parts = [ppo_value_loss(*(t[s] for t in x), mask[s], impl=impl) for s in halves]
    check(whole[0], sum(p[0].item() for p in parts))
    assert whole[1] == sum(p[1] for p in parts)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_ratio_is_exactly_one_before_the_first_step(impl):
    """Fidelity item 13's ground: the same log-probabilities give ratio 1 in every bit."""
    logprobs, mask = -normal(5, 7).abs(), torch.ones(5, 7, dtype=torch.bool)
    advantages = normal(5, 7, seed=1)
    loss, weight, metrics = ppo_policy_loss(logprobs, logprobs.clone(), advantages, mask, impl=impl)
    assert metrics.ratio == metrics.ratio_sq == weight
    assert metrics.approxkl == metrics.clipfrac == 0
    exact = -advantages.double().sum()
    assert_within_error_rule(loss, -advantages.sum(), exact, terms=advantages.abs().sum())


def check_error_rule(function, reference, mask, impl, spread=0.3):
    """Loss, weight, sums and gradient against float64; a sum's ulp is one of what was added up."""
    inputs = [normal(*mask.shape, seed=i) * spread for i in range(3)]
    # The thresholds are float32 numbers on both sides, so that no position changes sides.
    clip = 0.25

    def plain(*args, impl=None):
        return reference(*args)

    ours = outcome(function, *inputs, mask, clip, impl=impl)
    theirs = outcome(plain, *inputs, mask, clip)
    exact = outcome(plain, *(x.double() for x in inputs), mask, clip)
    for a, b, c in zip(ours[:-1], theirs, exact, strict=False):
        # Terms are a few in size at most; the gradient's are its own.
        terms = torch.tensor(float(mask.sum()) * 2)
        assert_within_error_rule(a, b, c.double(), terms=torch.maximum(terms, c.abs().float()))
    assert_within_error_rule(ours[-1], theirs[-1], exact[-1])


CASES = [(ppo_policy_loss, _policy_reference), (ppo_value_loss, _value_reference)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", ODD_ROWS)
@pytest.mark.parametrize(("function", "reference"), CASES)
def test_error_rule(function, reference, rows, impl):
    check_error_rule(function, reference, normal(rows, 33, seed=3) > 0, impl)


@pytest.mark.parametrize(("function", "reference"), CASES)
def test_error_rule_on_every_instruction_set(instruction_set, function, reference):  # noqa: F811
    for rows, width in ((1, 1), (3, 5), (127, 33), (5, 5000)):
        check_error_rule(function, reference, normal(rows, width, seed=3) > -1, "cpp")


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # The interpreter's.
def test_the_policy_gradient_of_a_ratio_far_from_one(impl):
    """exp of log-ratios from -100 to 85, where a coarse one is off by many ulp."""
    log_ratio = torch.cat([torch.linspace(-100, 85, 2001), torch.linspace(-1, 1, 1001)])
    ones, mask = -torch.ones_like(log_ratio), torch.ones_like(log_ratio, dtype=torch.bool)
    zeros = torch.zeros_like(log_ratio)
    grad = outcome(ppo_policy_loss, log_ratio, zeros, ones, mask, impl=impl)[-1]
    # A = -1: the larger term is the free one above the clip's range, the clipped one below it.
    exact = torch.where(log_ratio.double().exp() < 0.8, 0.0, log_ratio.double().exp())
    edge = (log_ratio.exp() - 0.8).abs() < 1e-6
    at = ~edge
    ratio = exact[at]
    for part in (ratio < 10, ratio >= 10):
        right = ratio[part]
        assert_within_error_rule(grad[at][part], right.float(), right)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # The interpreter's.
def test_a_ratio_of_zero_or_infinity(impl):
    inputs = torch.tensor([-math.inf, 100.0, -200.0]), torch.zeros(3), torch.ones(3)
    mask = torch.ones(3, dtype=torch.bool)
    result = outcome(ppo_policy_loss, *inputs, mask, impl=impl)
    # Ratios 0, inf, 0; the second is clipped to 1.2: loss -1.2, and no gradient anywhere.
    check(result[0], -1.2)
    assert result[4] == math.inf
    assert torch.equal(result[-1].nan_to_num(0.0), torch.zeros(3))


@pytest.mark.parametrize("impl", IMPLS)
def test_half_precision_gives_float32_and_empty_masks_give_zero(impl):
    for shape in ((2, 3), (0, 3), (0,)):
        x, mask = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape, dtype=torch.bool)
        for function in LOSSES:
            loss, weight, metrics = function(x, x, x, mask, impl=impl)
            for scalar in (loss, weight, *vars(metrics).values()):
                assert scalar.dtype == torch.float32
                assert scalar.shape == ()
                assert scalar == 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", LOSSES)
def test_strided_and_half_precision_inputs_get_their_gradient(function, impl):
    first = normal(6, 4).bfloat16().t().requires_grad_()
    others, mask = [normal(4, 12, seed=i)[:, ::2] for i in (1, 2)], normal(4, 6, seed=3) > 0
    loss, *_ = function(first, *others, mask, impl=impl)
    (grad,) = torch.autograd.grad(loss, first)
    assert grad.dtype == torch.bfloat16
    plain = outcome(function, first.float().contiguous(), *others, mask, impl=impl)
    assert torch.equal(loss.detach(), plain[0])
    assert torch.equal(grad, plain[-1].bfloat16())


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("function", LOSSES)
def test_the_backward_scales_the_gradient_and_metrics_have_none(function, impl):
    inputs, mask = [normal(3, 5, seed=i) for i in range(3)], torch.ones(3, 5, dtype=torch.bool)
    once = outcome(function, *inputs, mask, impl=impl)[-1]
    first = inputs[0].clone().requires_grad_()
    loss, weight, metrics = function(first, *inputs[1:], mask, impl=impl)
    assert not any(x.requires_grad for x in (weight, *vars(metrics).values()))
    (loss * 3 + first.sum() * 2).backward()
    assert torch.equal(first.grad, once * 3 + 2)
    with torch.no_grad():
        assert not function(first, *inputs[1:], mask, impl=impl)[0].requires_grad


@needs_native
@pytest.mark.parametrize("function", LOSSES)
def test_a_second_derivative_is_an_error_and_not_a_wrong_number(function):
    first = normal(4).requires_grad_()
    mask = torch.ones(4, dtype=torch.bool)
    loss, *_ = function(first, normal(4, seed=1), normal(4, seed=2), mask, impl="cpp")
    with pytest.raises(RuntimeError, match=r"no second derivative.*reference"):
        torch.autograd.grad(loss, first, create_graph=True)


@needs_native
@pytest.mark.parametrize("function", LOSSES)
def test_the_bits_do_not_depend_on_the_number_of_threads(function):
    inputs = [normal(500, 1000, seed=i) for i in range(3)]
    mask = normal(500, 1000, seed=3) > 0
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(function, *inputs, mask, impl="cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_arguments_are_errors():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for function in LOSSES:
        with pytest.raises(ValueError, match="clip"):
            function(x, x, x, mask, clip=-0.1)
        with pytest.raises(ValueError, match="boolean"):
            function(x, x, x, mask.float())
        with pytest.raises(ValueError, match="must be"):
            function(x, x, torch.zeros(3), mask)


@needs_native
@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (0, torch.zeros(4).double()),
        (1, torch.zeros(5)),
        (2, torch.zeros(8)[::2]),
        (3, torch.zeros(4)),
        (3, torch.zeros(3).bool()),
    ],
)
def test_no_address_leaves_python_unchecked(place, wrong):
    args = [torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros(4).bool(), 0.2, True]
    args[place] = wrong
    ops = torch.ops.fairlead_kernels
    for launch in (
        ops.ppo_policy_loss,
        ops.ppo_value_loss,
        ops.triton_ppo_policy_loss,
        ops.triton_ppo_value_loss,
    ):
        with pytest.raises(ValueError, match="ppo_"):
            launch(*args)


@needs_native
@pytest.mark.parametrize("name", ["ppo_policy_loss", "ppo_value_loss"])
def test_the_torch_operations_pass_opcheck(name):
    operation = getattr(torch.ops.fairlead_kernels, name).default
    inputs, mask = [normal(3, 5, seed=i) for i in range(3)], normal(3, 5, seed=3) > 0
    torch.library.opcheck(operation, (inputs[0].requires_grad_(), *inputs[1:], mask, 0.2, True))


@needs_native
@pytest.mark.parametrize("name", ["ppo_policy_loss", "ppo_value_loss"])
def test_torch_compile_goes_through_forward_and_backward(name):
    operation = getattr(torch.ops.fairlead_kernels, name)
    inputs, mask = [normal(3, 5, seed=i) for i in range(3)], normal(3, 5, seed=3) > 0

    def loss_of(first):
        return operation(first * 2, *inputs[1:], mask, 0.2, True)[0] * 0.5

    grads = []
    for function in (loss_of, torch.compile(loss_of, backend="aot_eager", fullgraph=True)):
        first = inputs[0].clone().requires_grad_()
        function(first).backward()
        grads.append(first.grad)
    assert torch.equal(*grads)
