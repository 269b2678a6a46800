import math

import pytest
import torch
from cases import normal, ragged
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import ppo_policy_loss, ppo_value_loss


def check(actual, exact):
    exact = torch.tensor(exact, dtype=torch.float64)
    assert_within_error_rule(actual.detach(), exact.float(), exact)


def test_policy_loss_by_hand():
    # ratios 1.5, 1.5, 0.5, 1 with A = 1, -1, 1, 2 and clip 0.2:
    #   max(-1.5, -1.2) = -1.2 (clipped); max(1.5, 1.2) = 1.5; max(-0.5, -0.8) = -0.5; -2.
    # Sum -2.2 over 4 positions; the fifth is masked.
    ratio = torch.tensor([1.5, 1.5, 0.5, 1.0, 1.0])
    advantages = torch.tensor([1.0, -1.0, 1.0, 2.0, 100.0])
    mask = torch.tensor([True, True, True, True, False])
    logprobs = ratio.log().requires_grad_(True)
    loss, weight, metrics = ppo_policy_loss(logprobs, torch.zeros(5), advantages, mask)
    check(loss, -2.2)
    assert weight.item() == 4
    check(metrics.ratio, 4.5)
    check(metrics.ratio_sq, 1.5**2 + 1.5**2 + 0.5**2 + 1)
    assert metrics.clipfrac.item() == 1
    check(metrics.approxkl, 0.5 * (2 * math.log(1.5) ** 2 + math.log(0.5) ** 2))
    loss.backward()
    # d/d logp of -A ratio is -A ratio; none through the clipped term; full at ratio 1.
    check(logprobs.grad, [0.0, 1.5, -0.5, -2.0, 0.0])


def test_value_loss_by_hand():
    # V_old = 0, clip 0.2. V = 1, R = 2: max(1, (0.2 - 2)^2 = 3.24) = 3.24 (clipped, no gradient).
    # V = 1, R = -1: max(4, 1.2^2) = 4. V = 0.1, R = 0: 0.01. Half the sum is 3.625.
    values = torch.tensor([1.0, 1.0, 0.1, 7.0], requires_grad=True)
    returns = torch.tensor([2.0, -1.0, 0.0, 0.0])
    mask = torch.tensor([True, True, True, False])
    loss, weight, metrics = ppo_value_loss(values, torch.zeros(4), returns, mask)
    check(loss, 3.625)
    assert weight.item() == 3
    assert metrics.clipfrac.item() == 1
    loss.backward()
    check(values.grad, [0.0, 2.0, 0.1, 0.0])


def test_value_clipping_can_be_turned_off():
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    mask = torch.ones(2, dtype=torch.bool)
    loss, _, metrics = ppo_value_loss(values, torch.zeros(2), torch.zeros(2), mask, clip=None)
    assert loss.item() == 5.0
    assert metrics.clipfrac.item() == 0
    loss.backward()
    assert torch.equal(values.grad, torch.tensor([1.0, 3.0]))


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_nan_outside_the_mask_reaches_no_value_and_no_gradient(case):
    """Fidelity item 20: the input of exp is masked, since where on its output alone gives NaN."""
    mask, seed = case
    base = [normal(*mask.shape, seed=seed + i) for i in range(3)]
    for function in (ppo_policy_loss, ppo_value_loss):
        results = []
        for fill in (0.0, math.nan, math.inf):
            first, second, third = (x.masked_fill(~mask, fill) for x in base)
            first.requires_grad_(True)
            loss, weight, metrics = function(first, second, third, mask)
            loss.backward()
            numbers = [loss.detach(), weight, *vars(metrics).values()]
            results.append([*numbers, first.grad])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        assert not bool(results[0][-1][~mask].any())


def test_sums_of_microbatches_are_the_sum_of_the_batch():
    """Fidelity item 22's ground: sums and weights, so that parts of unequal size add up."""
    x = [torch.tensor([0.5, -0.25, 0.125, 0.75]) * k for k in (1.0, 0.5, 2.0)]
    mask = torch.tensor([True, True, False, True])
    whole = ppo_value_loss(*x, mask)
    parts = [ppo_value_loss(*(t[s] for t in x), mask[s]) for s in (slice(0, 1), slice(1, 4))]
    check(whole[0], sum(p[0].item() for p in parts))
    assert whole[1] == sum(p[1] for p in parts)


def test_the_ratio_is_exactly_one_before_the_first_step():
    """Fidelity item 13's ground: the same log-probabilities give ratio 1 in every bit."""
    logprobs, mask = -normal(5, 7).abs(), torch.ones(5, 7, dtype=torch.bool)
    advantages = normal(5, 7, seed=1)
    loss, weight, metrics = ppo_policy_loss(logprobs, logprobs.clone(), advantages, mask)
    assert metrics.ratio == metrics.ratio_sq == weight
    assert metrics.approxkl == metrics.clipfrac == 0
    assert torch.equal(loss, (-advantages).sum())


@pytest.mark.parametrize("rows", [1, 3, 127, 257])
def test_error_rule(rows):
    lp, old, adv = (normal(rows, 33, seed=i) * 0.1 for i in range(3))
    mask = normal(rows, 33, seed=3) > 0

    def plain(lp, old, adv):
        ratio = (lp[mask] - old[mask]).exp()
        return torch.max(-adv[mask] * ratio, -adv[mask] * ratio.clamp(0.8, 1.2)).sum()

    loss, _, _ = ppo_policy_loss(lp, old, adv, mask)
    exact = plain(lp.double(), old.double(), adv.double())
    assert_within_error_rule(loss, plain(lp, old, adv), exact, terms=adv[mask].abs().sum())


def test_half_precision_inputs_give_float32_and_empty_masks_give_zero():
    x, mask = torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.bool)
    for function in (ppo_policy_loss, ppo_value_loss):
        loss, weight, metrics = function(x, x, x, mask)
        for scalar in (loss, weight, *vars(metrics).values()):
            assert scalar.dtype == torch.float32
            assert scalar.shape == ()
            assert scalar == 0


def test_wrong_arguments_are_errors():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for function in (ppo_policy_loss, ppo_value_loss):
        with pytest.raises(ValueError, match="clip"):
            function(x, x, x, mask, clip=-0.1)
        with pytest.raises(ValueError, match="boolean"):
            function(x, x, x, mask.float())
        with pytest.raises(ValueError, match="must be"):
            function(x, x, torch.zeros(3), mask)
