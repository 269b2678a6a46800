"""The ranking loss and the held-out report, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead_plugins.reward_model.calibration import calibration_table, held_out_report
from fairlead_plugins.reward_model.config import RankingLossConfig
from fairlead_plugins.reward_model.losses import RankingLoss, pair_differences


def ranking_loss(divisor: str = "pairs") -> RankingLoss:
    return RankingLoss(RankingLossConfig.model_validate({"divisor": divisor}))


def minus_log_sigmoid(difference: float) -> float:
    return math.log1p(math.exp(-difference))


# softplus(-1), softplus(-2), softplus(-3) and softplus(1)
ONE, TWO, THREE, MINUS_ONE = (minus_log_sigmoid(d) for d in (1, 2, 3, -1))


# --- the loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", ["pairs", "all"])
def test_three_responses_without_ties(divisor: str) -> None:
    """-1/C(3,2) * sum: scores 3, 2, 0 in this order, differences 1, 3 and 2."""
    term = ranking_loss(divisor)([torch.tensor([3.0, 2.0, 0.0])], [[0, 1, 2]])
    assert term.total.item() == pytest.approx((ONE + THREE + TWO) / 3)
    assert term.weight == 1
    assert pytest.approx(0.313262, abs=1e-6) == ONE


def test_lower_ranks_are_preferred_whatever_the_order_of_the_responses() -> None:
    """The same three, shuffled; then one pair the wrong way round: -log sigmoid(-1)."""
    term = ranking_loss()([torch.tensor([0.0, 3.0, 2.0])], [[9, -1, 4]])
    assert term.total.item() == pytest.approx((ONE + THREE + TWO) / 3)
    wrong = ranking_loss()([torch.tensor([0.0, 1.0])], [[0, 1]])
    assert wrong.total.item() == pytest.approx(MINUS_ONE)


@pytest.mark.parametrize(("divisor", "by"), [("pairs", 2), ("all", 3)])
def test_tied_pairs_are_dropped(divisor: str, by: int) -> None:
    """Scores 3, 2, 0, the first two tied: pairs (3, 0) and (2, 0), over 2 kept or over C(3,2)."""
    term = ranking_loss(divisor)([torch.tensor([3.0, 2.0, 0.0])], [[0, 0, 1]])
    assert term.total.item() == pytest.approx((THREE + TWO) / by)


def test_every_prompt_weighs_one_however_many_pairs_it_has() -> None:
    """K = 3 with all differences 1 or 2, K = 2 with difference 1, and one with no pair."""
    scores = [torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([5.0, 1.0])]
    term = ranking_loss()(scores, [[0, 1, 2], [0, 1], [3, 3]])
    first = (ONE + TWO + ONE) / 3
    assert term.total.item() == pytest.approx(first + ONE)
    assert term.weight == 2  # the mean is over prompts that have a pair
    over_pairs = (ONE + TWO + ONE + ONE) / 4
    assert term.total.item() / term.weight != pytest.approx(over_pairs)


def test_a_prompt_without_a_pair_adds_nothing() -> None:
    term = ranking_loss()([torch.tensor([5.0, 1.0], requires_grad=True)], [[1, 1]])
    assert (term.total.item(), term.weight) == (0.0, 0.0)


def test_the_gradient_by_hand() -> None:
    """d/dr of -log sigmoid(r_w - r_l) is -(1 - sigmoid(1)) for w and its opposite for l."""
    row = torch.tensor([1.0, 0.0], requires_grad=True)
    ranking_loss()([row], [[0, 1]]).total.backward()
    slope = 1 - 1 / (1 + math.exp(-1))
    assert row.grad is not None
    torch.testing.assert_close(row.grad, torch.tensor([-slope, slope]))


def test_a_hopeless_difference_stays_finite() -> None:
    """-log sigmoid(-200) is 200; log(sigmoid(.)) would be -inf."""
    row = torch.tensor([0.0, 200.0], requires_grad=True)
    term = ranking_loss()([row], [[0, 1]])
    term.total.backward()
    assert term.total.item() == pytest.approx(200.0)
    assert row.grad is not None
    assert row.grad.tolist() == [-1.0, 1.0]


def test_accuracy_sets_equal_scores_apart() -> None:
    """Fidelity item 8. Differences 1, -1, 0: one right of two told, margin (1 - 1 + 0) / 3."""
    scores = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])]
    metrics = ranking_loss()(scores, [[0, 1]] * 3).metrics
    assert metrics == {"accuracy": (1.0, 2.0), "margin": (0.0, 3.0)}


def test_pair_differences_are_winner_minus_loser() -> None:
    found = pair_differences(torch.tensor([10.0, 20.0, 40.0]), [1, 0, 1])
    assert sorted(found.tolist()) == [-20.0, 10.0]


# --- item 8: the report -------------------------------------------------------------------


def test_the_report_counts_ties_apart() -> None:
    """Fidelity item 8: 3 right, 1 wrong, 1 equal; the mean margin is over all five."""
    margins = [torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 3.0])]
    report = held_out_report(margins, seed=0)
    assert report["accuracy"] == pytest.approx(3 / 4)
    assert (report["pairs"], report["ties"], report["heldout_prompts"]) == (5, 1, 2)
    assert report["margin"] == pytest.approx(1.0)
    assert report["accuracy_low"] <= report["accuracy"] <= report["accuracy_high"]


def test_the_interval_resamples_prompts_and_not_pairs() -> None:
    """Fidelity item 8: 20 prompts of 36 pairs, each all right or all wrong.

    By prompts the standard error is sqrt(.25 / 20) = 0.11 and the interval about 0.5 +- 0.22;
    over 720 pairs taken for independent it would be 0.5 +- 0.037.
    """
    margins = [torch.full((36,), 1.0 if i % 2 else -1.0) for i in range(20)]
    report = held_out_report(margins, seed=0)
    assert report["accuracy"] == 0.5
    assert report["accuracy_low"] == pytest.approx(0.28, abs=0.05)
    assert report["accuracy_high"] == pytest.approx(0.72, abs=0.05)
    assert held_out_report(margins, seed=0) == report


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Fidelity item 8: 100 draws of 40 prompts with 1 to 6 pairs, true accuracy 0.7."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(100):
        margins = []
        for _ in range(40):
            count = int(torch.randint(1, 7, (), generator=generator))
            right = torch.rand(count, generator=generator) < 0.7
            margins.append(torch.where(right, 1.0, -1.0))
        report = held_out_report(margins, seed=2)
        covered += report["accuracy_low"] <= 0.7 <= report["accuracy_high"]
    assert 88 <= covered <= 99  # 95, less what a bootstrap of 40 costs, 3 standard errors


def test_no_pairs_give_no_report() -> None:
    assert held_out_report([], seed=0) == {}
    assert held_out_report([torch.zeros(3)], seed=0) == {"pairs": 3, "ties": 3}


def test_the_calibration_table_by_hand() -> None:
    """Fidelity item 8.

    sigmoid(0.1) = 0.525, sigmoid(0.2) = 0.550, sigmoid(1) = 0.731, sigmoid(4) = 0.982: of the
    first bin's three one is right, of the third's two one is, the last's is right. An equal
    score states nothing.
    """
    margins = [torch.tensor([0.1, -0.1, 1.0, 4.0, 0.0]), torch.tensor([-0.2, -1.0])]
    table = calibration_table(margins, seed=0)
    assert [row["count"] for row in table] == [3, 2, 1]
    assert [row["accuracy"] for row in table] == pytest.approx([1 / 3, 1 / 2, 1.0])
    low = (2 * 0.5249792 + 0.5498340) / 3
    assert [row["confidence"] for row in table] == pytest.approx([low, 0.7310586, 0.9820138])
    # The third bin has a pair of each prompt, one right and one wrong. The last one's is of one
    # prompt, which does not say how prompts differ.
    assert (table[1]["accuracy_low"], table[1]["accuracy_high"]) == (0.0, 1.0)
    assert "accuracy_low" not in table[2]


def test_a_bins_interval_resamples_prompts_and_not_pairs() -> None:
    """Fidelity item 8: as for the accuracy, 20 prompts of 36 pairs: 0.5 +- 0.22."""
    margins = [torch.full((36,), 1.0 if i % 2 else -1.0) for i in range(20)]
    (row,) = calibration_table(margins, seed=0)
    assert row["accuracy_low"] == pytest.approx(0.28, abs=0.05)
    assert row["accuracy_high"] == pytest.approx(0.72, abs=0.05)


def test_a_certain_pair_is_in_the_last_bin() -> None:
    """sigmoid(1000) is 1 exactly, and the last bin is closed."""
    (row,) = calibration_table([torch.tensor([1000.0])], seed=0)
    assert row == {"confidence": 1.0, "accuracy": 1.0, "count": 1}
