import math

import pytest
import torch
from cases import normal, prefix_mask, ragged
from hypothesis import given, settings
from tolerances import assert_within_error_rule

from fairlead_kernels import kl_rewards


def test_score_is_added_once_at_the_last_response_token():
    """Fidelity item 29, and the penalty -beta * kl at each response token."""
    logprobs = torch.tensor([[-1.0, -2.0, -3.0, 9.0], [-1.0, 9.0, 9.0, 9.0]])
    ref = torch.tensor([[-1.5, -1.5, -3.0, 7.0], [-2.0, 7.0, 7.0, 7.0]])
    mask = prefix_mask([3, 1], 4)
    rewards, kl = kl_rewards(logprobs, ref, torch.tensor([2.0, 4.0]), mask, beta=0.5)
    # lr = 0.5, -0.5, 0 | 1; rewards = -0.5 lr, plus 2 at the third token, plus 4 at the first.
    assert torch.equal(kl, torch.tensor([[0.5, -0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    assert torch.equal(rewards, torch.tensor([[-0.25, 0.25, 2.0, 0.0], [3.5, 0.0, 0.0, 0.0]]))


def test_estimators_by_hand():
    """Fidelity item 15: k1 = lr, k2 = lr^2 / 2, k3 = exp(-lr) - 1 + lr, at lr = 1/2."""
    one = torch.zeros(1, 1)
    mask = torch.ones(1, 1, dtype=torch.bool)
    expected = {"k1": 0.5, "k2": 0.125, "k3": math.exp(-0.5) - 0.5}
    for name, value in expected.items():
        _, kl = kl_rewards(one, one - 0.5, torch.zeros(1), mask, 0.1, estimator=name)
        exact = torch.tensor([[value]], dtype=torch.float64)
        assert_within_error_rule(kl, exact.float(), exact)


def test_k3_is_never_negative_for_tiny_ratios():
    """Fidelity item 15: exp(-lr) - 1 + lr goes negative in float32, expm1 does not."""
    log_ratio = torch.cat([torch.logspace(-12, 1, 5000), -torch.logspace(-12, 1, 5000)])[None]
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    _, kl = kl_rewards(
        log_ratio, torch.zeros_like(log_ratio), torch.zeros(1), mask, 0.1, estimator="k3"
    )
    assert bool((torch.exp(-log_ratio) - 1 + log_ratio < 0).any()), "the trap is there"
    assert bool((kl >= 0).all())


def test_a_negative_per_token_kl_is_neither_clamped_nor_made_positive():
    """Fidelity item 16."""
    lr = torch.tensor([[-0.75]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    rewards, kl = kl_rewards(lr, torch.zeros(1, 1), torch.zeros(1), mask, beta=2.0)
    assert kl.item() == -0.75
    assert rewards.item() == 1.5


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_positions_outside_the_response_have_no_influence(case):
    """Fidelity item 20, in value and gradient, with NaN there."""
    mask, seed = case
    inputs = [normal(*mask.shape, seed=seed + i) for i in range(3)]
    scores = normal(len(mask), seed=seed + 3)
    for estimator in ("k1", "k2", "k3"):
        results = []
        for fill in (0.0, math.nan, math.inf):
            a, b, extra = (x.masked_fill(~mask, fill) for x in inputs)
            a.requires_grad_(True)
            rewards, kl = kl_rewards(
                a, b, scores, mask, 0.1, estimator=estimator, token_scores=extra
            )
            rewards.sum().backward()
            results.append((rewards.detach(), kl.detach(), a.grad))
        for other in results[1:]:
            assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
        rewards, kl, grad = results[0]
        assert not bool(rewards[~mask].any() | kl[~mask].any() | grad[~mask].any())


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_each_row_with_a_response_gets_its_score_exactly_once(case):
    """Fidelity item 29: with beta 0 a row's rewards are its score and zeros."""
    mask, seed = case
    scores = normal(len(mask), seed=seed)
    zeros = torch.zeros(mask.shape)
    rewards, _ = kl_rewards(zeros, zeros, scores, mask, beta=0.0)
    assert torch.equal(rewards.sum(dim=1), scores.masked_fill(~mask.any(dim=1), 0.0))
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        if length:
            assert rewards[row, length - 1] == scores[row]


def test_a_row_without_response_ignores_a_nan_score():
    rewards, _ = kl_rewards(
        torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([math.nan]), prefix_mask([0], 2), 0.1
    )
    assert torch.equal(rewards, torch.zeros(1, 2))


def test_given_kl_and_token_scores_are_used():
    mask = prefix_mask([2], 3)
    rewards, kl = kl_rewards(
        torch.full((1, 3), 5.0),
        torch.zeros(1, 3),
        torch.tensor([1.0]),
        mask,
        beta=0.5,
        kl=torch.tensor([[2.0, 4.0, math.nan]]),
        token_scores=torch.tensor([[10.0, 20.0, math.nan]]),
    )
    assert torch.equal(kl, torch.tensor([[2.0, 4.0, 0.0]]))
    # -0.5 * 2 + 10 and -0.5 * 4 + 20 + 1.
    assert torch.equal(rewards, torch.tensor([[9.0, 19.0, 0.0]]))


def test_half_precision_inputs_give_float32():
    zeros = torch.zeros(1, 2, dtype=torch.bfloat16)
    rewards, kl = kl_rewards(zeros, zeros, zeros[:, 0], prefix_mask([2], 2), 0.1)
    assert rewards.dtype == kl.dtype == torch.float32


def test_empty_batch():
    zeros = torch.zeros(0, 3)
    rewards, kl = kl_rewards(zeros, zeros, torch.zeros(0), zeros.bool(), 0.1)
    assert rewards.shape == kl.shape == (0, 3)


def test_wrong_arguments_are_errors():
    zeros, mask = torch.zeros(2, 3), prefix_mask([1, 2], 3)
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask, 0.1, estimator="k4")
    with pytest.raises(ValueError, match="scores"):
        kl_rewards(zeros, zeros, torch.zeros(3), mask, 0.1)
    with pytest.raises(ValueError, match="boolean"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask.float(), 0.1)
    with pytest.raises(ValueError, match="beta"):
        kl_rewards(zeros, zeros, torch.zeros(2), mask, math.nan)
