"""The claims by hand: each number, its interval, and what its gate says of it."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead_plugins.miniworld.claims import Claim, Curve, Measurements, all_claims, smoothed
from fairlead_plugins.miniworld.report import read_claims, rows

MODELS = ("base", "sft", "ppo", "ptx")


def metrics(label: str, value: float, low: float, high: float) -> dict[str, float]:
    return {label: value, f"{label}_low": low, f"{label}_high": high}


def entry(label: str, value: float, outcomes: list[float], spread: float = 0.02) -> dict[str, Any]:
    return {
        "metrics": metrics(label, value, value - spread, value + spread),
        "outcomes": outcomes,
        "clusters": [str(number) for number in range(len(outcomes))],
    }


def results(**changes: list[float]) -> dict[str, Any]:
    """What a run with every claim holding measures; a label's four models may be changed."""
    means = {
        "over_sft": [0.4, 0.5, 0.7, 0.7],
        "over_base": [0.5, 0.6, 0.8, 0.8],
        "code": [0.5, 0.6, 0.9, 0.75],
        "foreign": [0.5, 0.5, 0.5, 0.5],
        "truthful": [0.3, 0.5, 0.7, 0.6],
        "rude": [0.4, 0.2, 0.1, 0.1],
        "counting": [1.0, 1.0, 0.5, 0.9],
        "nll": [0.7, 0.72, 0.9, 0.75],
        **changes,
    }
    evaluators: dict[str, Any] = {}
    for label, four in means.items():
        # Every item the same, so that the intervals have no width and the gates are on the value.
        models = {
            name: entry(label, one, [one] * 8) for name, one in zip(MODELS, four, strict=True)
        }
        evaluators[label] = {"component": "any", "models": models}
    for label in ("agreement", "heldout_agreement"):
        data = entry(label, 0.73, [])
        data["metrics"] |= metrics(f"{label}_reward", 0.67, 0.66, 0.68)
        evaluators[label] = {"component": "agreement", "models": {"data": data}}
    return {"evaluators": evaluators}


RISES_AND_FALLS = Curve(
    # Means of five: 1, 1.2, 1.4, 1.6, 1.8, 2.0, 1.6, 1.2, 0.8, 0.4, 0: the peak is 2, the end 0.
    gold=[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0],
    proxy=list(range(15)),
    kl=[0.1 * number for number in range(15)],
)


def judged(curve: Curve = RISES_AND_FALLS, **changes: list[float]) -> dict[str, Claim]:
    return {c.measure: c for c in all_claims(Measurements(results(**changes)), curve)}


def one(measure: str, curve: Curve = RISES_AND_FALLS, **changes: list[float]) -> Claim:
    found = [c for name, c in judged(curve, **changes).items() if name.startswith(measure)]
    assert len(found) == 1 or measure == "gold win rate"
    return found[0]


def test_every_claim_holds_where_every_number_is_good() -> None:
    claims = all_claims(Measurements(results()), RISES_AND_FALLS)
    gated = [claim for claim in claims if claim.gate]
    assert len(claims) == 13 and len(gated) == 10
    assert all(claim.holds is True for claim in gated)
    assert all(claim.holds is None for claim in claims if not claim.gate)


@pytest.mark.parametrize(
    ("measure", "value", "changes"),
    [
        ("true answers", 2.0, {}),  # 0.6 / 0.3
        ("rude answers", 0.75, {}),  # 1 - 0.1 / 0.4
        ("nats a token", 0.15, {}),  # 0.9 - 0.75
        ("share of the gap", 0.75, {}),  # (0.9 - 0.75) / (0.9 - 0.7)
        ("counting", 0.4, {}),  # 0.9 - 0.5
        ("gold score, peak", 2.0, {}),
    ],
)
def test_the_numbers_by_hand(measure: str, value: float, changes: dict[str, list[float]]) -> None:
    assert one(measure, **changes).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("measure", "changes"),
    [
        ("true answers", {"truthful": [0.4, 0.5, 0.6, 0.6]}),  # exactly 1.5 times
        ("rude answers", {"rude": [0.4, 0.3, 0.3, 0.31]}),
        ("nats a token", {"nll": [0.7, 0.7, 0.74, 0.7]}),
        ("share of the gap", {"nll": [0.7, 0.7, 0.9, 0.81]}),  # 0.09 of 0.2
    ],
)
def test_a_number_beyond_its_gate_fails(measure: str, changes: dict[str, list[float]]) -> None:
    assert one(measure, **changes).holds is False


@pytest.mark.parametrize("label", ["over_sft", "code"])
def test_a_win_rate_is_judged_by_the_lower_end_of_its_interval(label: str) -> None:
    # 0.57 - 0.02 is not above 0.55, nor 0.62 - 0.02 above 0.6.
    edge = {"over_sft": 0.57, "code": 0.62}[label]
    for value, holds in ((edge, False), (edge + 0.01, True)):
        changed = {label: [0.5, 0.5, 0.5, value]}
        claims = all_claims(Measurements(results(**changed)), RISES_AND_FALLS)
        row = {"over_sft": 0, "code": 7}[label]
        assert claims[row].value == value and claims[row].holds is holds


def test_over_optimisation_needs_gold_to_fall_and_the_proxy_to_rise() -> None:
    gold, kl = RISES_AND_FALLS.gold, RISES_AND_FALLS.kl
    still = Curve(gold=[1.0] * 15, proxy=RISES_AND_FALLS.proxy, kl=kl)
    falling = Curve(gold=gold, proxy=[-float(n) for n in range(15)], kl=kl)
    assert one("gold score, peak", still).holds is False
    assert one("gold score, peak", falling).holds is False


def test_the_fall_has_an_interval_from_the_noise_of_the_iterations() -> None:
    # Differences 0 but for +1 and -2: their squares sum to 5, over 14, halved: 5/28. The means of
    # five at both ends: 1.96 * sqrt(5/28 * 2/5) = 0.5238 to each side of 2.
    fall = one("gold score, peak")
    assert fall.low == pytest.approx(2 - 0.5238, abs=1e-4)
    assert fall.high == pytest.approx(2 + 0.5238, abs=1e-4)


def test_what_was_not_measured_is_no_number_and_fails() -> None:
    """One labeler a group: nobody to agree with."""
    alone = results()
    alone["evaluators"]["agreement"]["models"]["data"]["metrics"].pop("agreement")
    claims = {c.claim: c for c in all_claims(Measurements(alone), RISES_AND_FALLS)}
    assert (claims["labelers agree"].value, claims["labelers agree"].holds) == (None, False)


def test_a_curve_is_smoothed_over_five_iterations() -> None:
    assert smoothed([0, 0, 0, 0, 5, 10]) == [1.0, 3.0]
    assert smoothed([2, 4]) == [3.0]


def test_an_interval_that_is_not_known_is_left_out() -> None:
    # No base answer is right: the ratio is infinite, JSON has no number for it: nothing is shown.
    never = one("true answers", truthful=[0.0, 0.5, 0.5, 0.5])
    assert (never.value, never.low, never.high, never.holds) == (None, None, None, False)


def test_claims_are_read_back_as_rows_of_text(tmp_path: Any) -> None:
    path = tmp_path / "claims.json"
    path.write_text(
        '[{"claim": "c", "measure": "m", "paper": "p", "value": 0.5, "low": 0.25, "high": 0.75,'
        ' "gate": "> 0.4", "holds": true},'
        ' {"claim": "d", "measure": "n", "paper": "p", "value": 2, "low": null, "high": null,'
        ' "gate": "", "holds": null}]'
    )
    assert rows(read_claims(path)) == [
        ("c", "m", "p", "0.50 (0.25 to 0.75)", "> 0.4", "holds"),
        ("d", "n", "p", "2.00 (? to ?)", "reported", "-"),
    ]
