"""PPO's credit assignment and losses, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rl import hand_rollout
from torch import Tensor

from fairlead.components import PolicyBatch, ValueBatch
from fairlead.rollout import Rollout
from fairlead_kernels import whiten
from fairlead_plugins.ppo.algorithm import Ppo
from fairlead_plugins.ppo.config import (
    AdaptiveKl,
    ClippedPolicyConfig,
    ClippedValueConfig,
    PpoConfig,
)
from fairlead_plugins.ppo.losses import ClippedPolicyLoss, ClippedValueLoss


def ppo(**settings: Any) -> Ppo:
    return Ppo(PpoConfig(**settings))


def close(found: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=tolerance)


def test_score_is_added_once_at_the_last_response_token() -> None:
    """Fidelity items 28 and 29, the hand-computed example.

    Three tokens, no KL, score 2, V = 1 everywhere, lambda 0.95. Rewards 0, 0, 2. With V = 0
    after the last token the deltas are 0 + 1 - 1 = 0, 0 + 1 - 1 = 0, 2 + 0 - 1 = 1, and the
    advantages 0.95 * 0.95 * 1, 0.95 * 1, 1.
    """
    rollout = hand_rollout([3], [2.0], values=[[1.0, 1.0, 1.0]])
    credit = ppo(whiten_advantages="off").assign_credit(rollout)
    close(credit.rewards, [[0.0, 0.0, 2.0]])
    close(credit.advantages, [[0.9025, 0.95, 1.0]])
    close(credit.returns, [[1.9025, 1.95, 2.0]])


def test_each_row_ends_at_its_own_last_token() -> None:
    """Fidelity items 20 and 29: the row of one token is the example's last column alone."""
    rollout = hand_rollout([3, 1], [2.0, 2.0], values=[[1.0, 1.0, 1.0], [1.0, 5.0, 5.0]])
    credit = ppo(whiten_advantages="off").assign_credit(rollout)
    close(credit.rewards, [[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]])
    close(credit.advantages, [[0.9025, 0.95, 1.0], [1.0, 0.0, 0.0]])
    close(credit.returns, [[1.9025, 1.95, 2.0], [2.0, 0.0, 0.0]])


def test_a_response_cut_by_the_limit_is_not_bootstrapped() -> None:
    """V after the last response token is 0, also where the limit ended the response."""
    rollout = hand_rollout([2], [0.0], values=[[3.0, 4.0]]).replace(ended=torch.tensor([False]))
    credit = ppo(whiten_advantages="off", lam=1.0).assign_credit(rollout)
    close(credit.advantages, [[-3.0, -4.0]])


def test_the_discount_and_lambda_enter_as_gae_has_them() -> None:
    """gamma 0.5, lambda 0.5: deltas 0 + 0.5 - 1, 0 + 0.5 - 1, 2 - 1 = -0.5, -0.5, 1;
    advantages 1, -0.5 + 0.25 * 1 = -0.25, -0.5 + 0.25 * -0.25 = -0.5625."""
    rollout = hand_rollout([3], [2.0], values=[[1.0, 1.0, 1.0]])
    credit = ppo(whiten_advantages="off", gamma_discount=0.5, lam=0.5).assign_credit(rollout)
    close(credit.advantages, [[-0.5625, -0.25, 1.0]])


def test_defaults_are_the_papers_and_lhps() -> None:
    """Fidelity items 17, 18, 19 and 21."""
    config = PpoConfig()
    assert (config.lam, config.gamma_discount, config.kl_coefficient) == (0.95, 1.0, 0.02)
    assert config.adaptive_kl is None
    assert (config.whiten_advantages, config.whiten_rewards) == ("rollout", False)
    assert config.score_clip is None
    assert (AdaptiveKl().target, AdaptiveKl().horizon) == (6.0, 10_000.0)
    assert (ClippedPolicyConfig().clip, ClippedValueConfig().clip) == (0.2, 0.2)
    assert ClippedPolicyConfig().entropy_bonus == 0


LOG_RATIOS = [0.2, -0.1]


@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        ("k1", [0.2, -0.1]),
        ("k2", [0.02, 0.005]),
        # exp(-0.2) - 1 + 0.2 and exp(0.1) - 1 - 0.1
        ("k3", [0.018730753, 0.005170918]),
        ("full", [0.5, 0.25]),
    ],
)
def test_kl_penalty_by_estimator(estimator: str, divergence: list[float]) -> None:
    """Fidelity item 15: the reward of a token is -beta times its estimate, beta 0.5."""
    rollout = hand_rollout([2], [3.0], logprobs=[[-1.0, -1.3]], ref_logprobs=[[-1.2, -1.2]])
    rollout = rollout.replace(kl_full=torch.tensor([[0.5, 0.25]]))
    algorithm = ppo(kl_coefficient=0.5, kl_estimator=estimator)
    assert algorithm.needs_full_kl == (estimator == "full")
    credit = algorithm.assign_credit(rollout)
    close(credit.rewards, [[-0.5 * divergence[0], 3 - 0.5 * divergence[1]]])
    assert credit.metrics["objective/non_score_reward"] == pytest.approx(
        -0.5 * sum(divergence), abs=1e-6
    )


def test_a_negative_per_token_kl_is_neither_clamped_nor_made_positive() -> None:
    """Fidelity item 16: a log-ratio of -0.7 pays the token 0.1 * 0.7."""
    rollout = hand_rollout([1], [0.0], logprobs=[[-2.0]], ref_logprobs=[[-1.3]])
    close(ppo(kl_coefficient=0.1).assign_credit(rollout).rewards, [[0.07]])


def kl_rollout(kl: float, episodes: int = 4) -> Rollout:
    """Two tokens a row; the rows' sums of k1 have the mean `kl`."""
    half = [[-1.0 + kl, -1.0]] * episodes
    return hand_rollout(
        [2] * episodes, [0.0] * episodes, logprobs=half, ref_logprobs=[[-1.0, -1.0]] * episodes
    )


def test_adaptive_beta_by_hand() -> None:
    """Fidelity item 17: gain = 4 / 40 = 0.1; KL 6.6 is 0.1 above 6, so beta *= 1.01."""
    algorithm = ppo(kl_coefficient=0.5, adaptive_kl=AdaptiveKl(target=6.0, horizon=40.0))
    algorithm.assign_credit(kl_rollout(6.6))
    assert algorithm.beta == pytest.approx(0.5 * 1.01, rel=1e-6)
    # KL 60 and KL 0 are clipped to +0.2 and -0.2: beta *= 1.02, beta *= 0.98.
    algorithm.assign_credit(kl_rollout(60.0))
    assert algorithm.beta == pytest.approx(0.5 * 1.01 * 1.02, rel=1e-6)
    algorithm.assign_credit(kl_rollout(0.0))
    assert algorithm.beta == pytest.approx(0.5 * 1.01 * 1.02 * 0.98, rel=1e-6)


def test_a_new_beta_applies_from_the_next_batch() -> None:
    """Fidelity item 17. KL 60 and target 6: beta 0.5 goes to 0.51 after the first batch."""
    algorithm = ppo(kl_coefficient=0.5, adaptive_kl=AdaptiveKl(target=6.0, horizon=40.0))
    first = algorithm.assign_credit(kl_rollout(60.0))
    close(first.rewards[0], [-30.0, 0.0])
    assert first.metrics["objective/kl_coefficient"] == 0.5
    second = algorithm.assign_credit(kl_rollout(60.0))
    close(second.rewards[0], [-30.6, 0.0], 1e-5)
    assert second.metrics["objective/kl_coefficient"] == pytest.approx(0.51)


@pytest.mark.parametrize("estimator", ["k2", "k3", "full"])
def test_adaptive_beta_goes_by_k1_whatever_the_penalty(estimator: str) -> None:
    """Fidelity item 17: k2 of 6.6 is 21.8, k3 5.6; by k1 the factor is 1.01 as above."""
    algorithm = ppo(
        kl_coefficient=0.5,
        kl_estimator=estimator,
        adaptive_kl=AdaptiveKl(target=6.0, horizon=40.0),
    )
    algorithm.assign_credit(kl_rollout(6.6).replace(kl_full=torch.full((4, 2), 50.0)))
    assert algorithm.beta == pytest.approx(0.505, rel=1e-6)


def test_horizon_of_ten_batches_is_zieglers_tenth_an_iteration() -> None:
    """Fidelity item 17: K_beta = 0.1 an iteration, whatever the batch."""
    for episodes in (2, 8, 32):
        adaptive = AdaptiveKl(target=6.0, horizon=10.0 * episodes)
        algorithm = ppo(kl_coefficient=1.0, adaptive_kl=adaptive)
        algorithm.assign_credit(kl_rollout(12.0, episodes))
        assert algorithm.beta == pytest.approx(1 + 0.1 * 0.2, rel=1e-6)


def test_fixed_beta_stays() -> None:
    algorithm = ppo(kl_coefficient=0.5)
    algorithm.assign_credit(kl_rollout(60.0))
    assert algorithm.beta == 0.5


def test_beta_survives_a_resume() -> None:
    algorithm = ppo(kl_coefficient=0.5, adaptive_kl=AdaptiveKl(horizon=40.0))
    algorithm.assign_credit(kl_rollout(60.0))
    fresh = ppo(kl_coefficient=0.5, adaptive_kl=AdaptiveKl(horizon=40.0))
    fresh.restore(algorithm.state())
    assert fresh.beta == algorithm.beta != 0.5


def test_scores_are_clipped_only_when_asked() -> None:
    """Fidelity item 18."""
    rollout = hand_rollout([1, 1, 1], [7.0, -9.0, 1.5])
    close(ppo().assign_credit(rollout).rewards, [[7.0], [-9.0], [1.5]])
    close(ppo(score_clip=5.0).assign_credit(rollout).rewards, [[5.0], [-5.0], [1.5]])


def test_whitened_rewards_keep_their_mean_and_hold_kl_and_score_together() -> None:
    """Fidelity item 18. Rewards 1, 3 (masked: none), 2: mean 2, biased variance 2/3;
    (1 - 2) / sqrt(2/3) + 2 = 0.775255, 3.224745 and 2."""
    rollout = hand_rollout(
        [2, 1], [3.0, 2.0], logprobs=[[-3.0, -1.0], [-1.0]], ref_logprobs=[[-1.0, -1.0], [-1.0]]
    )
    credit = ppo(kl_coefficient=0.5, whiten_rewards=True).assign_credit(rollout)
    close(credit.rewards, [[2 - math.sqrt(1.5), 2 + math.sqrt(1.5)], [2.0, 0.0]], 1e-5)


def advantage_rollout() -> Rollout:
    """One token a row, V = 0: the advantages are the scores 0, 2, 4, 10."""
    return hand_rollout([1, 1, 1, 1], [0.0, 2.0, 4.0, 10.0])


def test_advantages_are_whitened_over_the_whole_rollout() -> None:
    """Fidelity item 19: mean 4, biased variance (16 + 4 + 0 + 36) / 4 = 14."""
    algorithm = ppo()
    credit = algorithm.assign_credit(advantage_rollout())
    root = math.sqrt(14)
    close(credit.advantages, [[-4 / root], [-2 / root], [0.0], [6 / root]])
    rows, mask = credit.advantages[:2], torch.ones(2, 1, dtype=torch.bool)
    close(algorithm.minibatch_advantages(rows, mask), rows.tolist())


def test_advantages_are_whitened_by_minibatch_when_asked() -> None:
    """Fidelity item 19, LHP's choice: of 0 and 2 it makes -1 and 1, of 4 and 10 likewise."""
    algorithm = ppo(whiten_advantages="minibatch")
    credit = algorithm.assign_credit(advantage_rollout())
    close(credit.advantages, [[0.0], [2.0], [4.0], [10.0]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    for rows in (slice(0, 2), slice(2, 4)):
        whitened = algorithm.minibatch_advantages(credit.advantages[rows], mask)
        close(whitened, [[-1.0], [1.0]])


def test_advantages_are_left_alone_when_whitening_is_off() -> None:
    """Fidelity item 19."""
    algorithm = ppo(whiten_advantages="off")
    credit = algorithm.assign_credit(advantage_rollout())
    close(credit.advantages, [[0.0], [2.0], [4.0], [10.0]])
    mask = torch.ones(4, 1, dtype=torch.bool)
    close(algorithm.minibatch_advantages(credit.advantages, mask), credit.advantages.tolist())


@pytest.mark.parametrize("whitening", ["rollout", "minibatch", "off"])
def test_returns_use_the_advantages_as_they_were(whitening: str) -> None:
    """`return_t = A_t (not whitened) + V_t`: with V = 1 and lambda 1 they are the scores."""
    rollout = hand_rollout([1, 1], [3.0, 7.0], values=[[1.0], [1.0]])
    credit = ppo(whiten_advantages=whitening).assign_credit(rollout)
    close(credit.returns, [[3.0], [7.0]])


def test_masked_positions_are_zero_again_after_whitening() -> None:
    """Fidelity item 19."""
    rollout = hand_rollout([3, 1], [2.0, 5.0])
    advantages = ppo().assign_credit(rollout).advantages
    assert advantages[1, 1:].tolist() == [0.0, 0.0]
    assert advantages[rollout.response_mask].mean().abs() < 1e-6


def spoil(rollout: Rollout) -> Rollout:
    """NaN wherever no response token is."""
    fields = ("logprobs", "ref_logprobs", "values", "entropy", "sampler_logprobs", "kl_full")
    outside = ~rollout.response_mask
    spoilt = {n: getattr(rollout, n).masked_fill(outside, float("nan")) for n in fields}
    return rollout.replace(**spoilt)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("whitening", ["rollout", "minibatch", "off"])
@pytest.mark.parametrize("whiten_rewards", [True, False])
def test_nan_beyond_the_response_has_no_influence(
    estimator: str, whitening: str, whiten_rewards: bool
) -> None:
    """Fidelity item 20."""
    rollout = hand_rollout(
        [3, 1, 2],
        [2.0, 1.0, -1.0],
        logprobs=[[-1.0, -2.0, -0.5], [-1.5], [-0.3, -0.2]],
        ref_logprobs=[[-1.1, -1.7, -0.6], [-1.2], [-0.5, -0.1]],
        values=[[0.5, 0.2, 0.1], [0.3], [-0.1, 0.4]],
    ).replace(kl_full=torch.full((3, 3), 0.1))
    settings = {
        "kl_estimator": estimator,
        "whiten_advantages": whitening,
        "whiten_rewards": whiten_rewards,
        "kl_coefficient": 0.5,
        "adaptive_kl": AdaptiveKl(horizon=30.0),
    }
    clean, spoilt = ppo(**settings), ppo(**settings)
    one, other = clean.assign_credit(rollout), spoilt.assign_credit(spoil(rollout))
    for name in ("rewards", "advantages", "returns"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert bool((getattr(other, name)[~rollout.response_mask] == 0).all())
    assert one.metrics == other.metrics
    assert clean.beta == spoilt.beta
    mask = rollout.response_mask
    nan_rows = other.advantages.masked_fill(~mask, float("nan"))
    expected = clean.minibatch_advantages(one.advantages, mask)
    found = spoilt.minibatch_advantages(nan_rows, mask)
    assert torch.equal(found[mask], expected[mask])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_in_one_operation_or_in_three_the_credit_has_the_same_bits(estimator: str) -> None:
    """Fidelity item 19: whitening over the rollout takes the fused path, without it the other."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 40, 17]
    rows = [torch.randn(4, 40, generator=generator) for _ in range(5)]
    rollout = hand_rollout(lengths, [2.0, 1.0, -1.0, 0.5]).replace(
        logprobs=rows[0],
        ref_logprobs=rows[1],
        values=rows[2],
        kl_full=rows[3],
        token_scores=rows[4],
    )
    settings = {"kl_estimator": estimator, "kl_coefficient": 0.5, "gamma_discount": 0.99}
    one = ppo(**settings).assign_credit(rollout)
    three = ppo(**settings, whiten_advantages="off").assign_credit(rollout)
    assert torch.equal(one.rewards, three.rewards)
    assert torch.equal(one.returns, three.returns)
    assert torch.equal(one.advantages, whiten(three.advantages, rollout.response_mask))
    assert one.metrics == three.metrics


@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_nan_beyond_the_response_reaches_no_loss_and_no_gradient(bonus: float) -> None:
    """Fidelity item 20: masking the output alone would backpropagate NaN."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    generator = torch.Generator().manual_seed(0)

    def run(fill: float) -> list[Tensor]:
        generator.manual_seed(0)
        drawn = [torch.randn(2, 3, generator=generator) for _ in range(8)]
        logp, old, ref, adv, ent, val, old_val, ret = (x.masked_fill(~mask, fill) for x in drawn)
        leaves = [x.requires_grad_() for x in (logp, ent, val)]
        policy = ClippedPolicyLoss(ClippedPolicyConfig(entropy_bonus=bonus))(
            PolicyBatch(logp, ent, old, ref, adv, mask)
        )
        value = ClippedValueLoss(ClippedValueConfig())(ValueBatch(val, old_val, ret, mask))
        (policy.total + value.total).backward()  # type: ignore[no-untyped-call]
        gradients = [x.grad if x.grad is not None else torch.zeros(2, 3) for x in leaves]
        assert policy.weight == value.weight == 3
        return [policy.total.detach(), value.total.detach(), *gradients]

    for clean, spoilt in zip(run(0.0), run(float("nan")), strict=True):
        assert torch.equal(clean, spoilt)
        if clean.ndim == 2:
            assert bool((spoilt[~mask] == 0).all())


def test_policy_loss_by_hand() -> None:
    """Clip 0.2. Ratios 1.5 with A = 2, 0.5 with A = -1, 1.1 with A = 1:
    max(-3, -2.4) + max(0.5, 0.8) + max(-1.1, -1.1) = -2.4 + 0.8 - 1.1 = -2.7."""
    ratios = torch.tensor([[1.5, 0.5, 1.1]])
    zeros, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    term = ClippedPolicyLoss(ClippedPolicyConfig())(
        PolicyBatch(ratios.log(), zeros, zeros, zeros, torch.tensor([[2.0, -1.0, 1.0]]), mask)
    )
    assert float(term.total) == pytest.approx(-2.7)
    assert term.weight == 3
    assert term.metrics["policy/clipfrac_avg"] == (2.0, 3.0)
    assert term.metrics["val/ratio"] == (pytest.approx(3.1), 3.0)


def test_value_loss_by_hand() -> None:
    """Clip 0.2, V_old 0. V = 1, R = 0: max(1, 0.04); V = 1, R = 2: max(1, 3.24); half of 4.24."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    term = ClippedValueLoss(ClippedValueConfig())(
        ValueBatch(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]), mask)
    )
    assert float(term.total) == pytest.approx(2.12)
    assert term.metrics["val/clipfrac_avg"] == (1.0, 2.0)


def test_process_rewards_are_added_at_each_token() -> None:
    """`token_scores`, as a shape_rewards hook may set them; the score still comes once."""
    rollout = hand_rollout([2], [3.0]).replace(token_scores=torch.tensor([[0.5, 0.25]]))
    close(ppo().assign_credit(rollout).rewards, [[0.5, 3.25]])


def test_the_full_kl_is_never_replaced_by_another_in_silence() -> None:
    with pytest.raises(ValueError, match="kl_full"):
        ppo(kl_estimator="full").assign_credit(hand_rollout([1], [0.0]))
