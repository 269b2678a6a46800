"""Agreement between labelers, and of a reward with them, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from measuring import build
from rl import EOS, rl_models
from support import configure, context

from fairlead.errors import ConfigError, DataError
from fairlead.scalar import load_scalar
from fairlead.statistics import fleiss_kappa
from fairlead.strategy import SingleDevice

X, Y, Z = "w1 w2", "w3", "w4 w5"


def ranking(prompt: str, *responses: str, ranks: list[int]) -> dict[str, Any]:
    return {"prompt": prompt, "responses": list(responses), "ranks": ranks}


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


THREE = [
    ranking("w0", X, Y, Z, ranks=[1, 2, 3]),
    ranking("w0", Z, Y, X, ranks=[2, 3, 1]),
    ranking("w0", X, Y, Z, ranks=[1, 1, 2]),
]
"""Three labelers of one prompt; by pair:

X over Y, X over Y, tie; X over Z, all three; Y over Z, Z over Y, Y over Z.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return rl_models(tmp_path)


def agreement(root: Path, records: list[dict[str, Any]], **changes: Any) -> Any:
    source = {"name": "inline", "records": records}
    return build(root, {"name": "agreement", "source": source, "part": "all", **changes})


def table(root: Path, body: str) -> dict[str, str]:
    """A reward that knows a text's score."""
    (root / "table.py").write_text(
        "def score(prompts, responses, metadata):\n"
        f"    return [{body} for prompt, response in zip(prompts, responses)]\n"
    )
    return {"name": "function", "function": f"{root / 'table.py'}:score"}


def test_labelers_are_compared_pair_by_pair_without_their_ties(root: Path) -> None:
    """1 of 1 on (X, Y), 3 of 3 on (X, Z), 1 of 3 on (Y, Z); two comparisons have a tie."""
    found = agreement(root, THREE, label="people").measure(None)
    assert found.metrics["eval/people"] == pytest.approx(5 / 7)
    assert found.metrics["eval/people_comparisons"] == 7
    assert found.metrics["eval/people_ties"] == 2
    assert sorted(found.outcomes) == [0, 0, 1, 1, 1, 1, 1]
    assert list(found.clusters) == ["w0"] * 7


def test_a_tie_is_a_verdict_like_another_for_kappa(root: Path) -> None:
    """As it stands in the table, whichever response of a pair is called the first."""
    found = agreement(root, THREE).measure(None).metrics["eval/agreement_kappa"]
    tables = [
        [[2, 0, 1], [3, 0, 0], [2, 1, 0]],
        [[0, 2, 1], [3, 0, 0], [2, 1, 0]],
        [[2, 0, 1], [0, 3, 0], [2, 1, 0]],
        [[2, 0, 1], [3, 0, 0], [1, 2, 0]],
    ]
    # Calling all the other way round changes nothing, so these are all the orders there are.
    assert any(found == pytest.approx(fleiss_kappa(counts)) for counts in tables)


def test_pairs_given_the_preferred_one_first_are_one_group(root: Path) -> None:
    """Labelers who disagree name the same two texts in opposite orders."""
    records = [pair("w0", X, Y), pair("w0", Y, X), pair("w1", X, Y), pair("w1", X, Y)]
    found = agreement(root, records).measure(None)
    assert list(found.outcomes) == [0, 1]
    assert list(found.clusters) == ["w0", "w1"]
    assert found.metrics["eval/agreement"] == 0.5


def test_the_place_in_the_data_is_no_verdict(root: Path) -> None:
    """All agree, and all records name the preferred one first: kappa is 1, and not undefined."""
    records = [pair(f"w{i}", X, Y) for i in range(12) for _ in range(2)]
    metrics = agreement(root, records).measure(None).metrics
    assert metrics["eval/agreement_kappa"] == 1.0
    assert metrics["eval/agreement"] == 1.0


def test_the_interval_resamples_prompts(root: Path) -> None:
    """Two prompts of six comparisons each: all agree on one, none on the other."""
    same = [pair("w0", X, Y)] * 4
    apart = [pair("w1", X, Y), pair("w1", Y, X)]
    metrics = agreement(root, same + apart).measure(None).metrics
    assert metrics["eval/agreement"] == pytest.approx(6 / 7)
    assert (metrics["eval/agreement_low"], metrics["eval/agreement_high"]) == (0.0, 1.0)


def test_the_same_responses_to_another_prompt_are_another_group(root: Path) -> None:
    with pytest.raises(DataError, match="none of 2 sets of responses is ranked by two labelers"):
        agreement(root, [pair("w0", X, Y), pair("w1", X, Y)])


def test_a_reward_is_measured_against_every_labeler(root: Path) -> None:
    """Scores X 3, Y 1, Z 1: right on (X, Y) twice, on (X, Z) thrice, and half on (Y, Z) thrice.

    The labeler's tie on (X, Y) is left out; a second prompt has one labeler, who is contradicted.
    """
    reward = table(root, "3.0 if response == 'w1 w2' and prompt == 'w0' else 1.0 + (prompt != 'w0')"
                   " * len(response)")  # fmt: skip
    metrics = agreement(root, [*THREE, pair("w6", Y, Z)], reward=reward).measure(None).metrics
    assert metrics["eval/agreement_reward"] == pytest.approx((2 + 3 + 1.5 + 0) / 9)
    assert metrics["eval/agreement_reward_comparisons"] == 9
    assert metrics["eval/agreement_reward_too_long"] == 0
    assert metrics["eval/agreement_reward_low"] == 0.0
    assert metrics["eval/agreement_reward_high"] == pytest.approx(6.5 / 8)
    # The single labeler agrees with nobody, and disagrees with nobody.
    assert metrics["eval/agreement_comparisons"] == 7


def test_a_reward_alone_can_be_measured_against_single_labelers(root: Path) -> None:
    records = [pair("w0", X, Y), pair("w1", Y, X)]
    reward = table(root, "float(len(response))")
    found = agreement(root, records, reward=reward).measure(None)
    assert found.metrics["eval/agreement_reward"] == 0.5
    assert "eval/agreement" not in found.metrics
    assert "eval/agreement_kappa" not in found.metrics
    assert found.outcomes == []


def test_a_reward_model_reads_the_prompt_the_response_and_its_end(root: Path) -> None:
    records = [ranking("w0 w1", X, Y, Z, ranks=[1, 2, 3]), ranking("w5", Y, Z, X, ranks=[2, 1, 3])]
    reward = {"name": "reward_model", "model": str(root / "value")}
    found = agreement(root, records, reward=reward).measure(None).metrics
    scorer = load_scalar(str(root / "value"), SingleDevice("cpu"), trained=False)

    def score(*ids: int) -> float:
        row = [*ids, EOS]
        with torch.no_grad():
            return float(scorer.at_last_token(torch.tensor([row]), torch.tensor([len(row)])))

    texts = {X: [1, 2], Y: [3], Z: [4, 5]}
    right = 0
    for prompt, best in (([0, 1], [X, Y, Z]), ([5], [Z, Y, X])):
        first, second, third = (score(*prompt, *texts[said]) for said in best)
        right += (first > second) + (first > third) + (second > third)
    assert found["eval/agreement_reward"] == pytest.approx(right / 6)


def test_responses_that_the_rewards_model_cannot_read_are_counted(root: Path) -> None:
    """64 positions: a prompt of 1, a response of 62 and its end fit, one of 63 does not."""
    fits, too_long = " ".join(["w1"] * 62), " ".join(["w1"] * 63)
    reward = {"name": "reward_model", "model": str(root / "value")}
    metrics = agreement(root, [pair("w0", fits, X), pair("w2", too_long, X)], reward=reward)
    found = metrics.measure(None).metrics
    assert found["eval/agreement_reward_too_long"] == 1
    assert found["eval/agreement_reward_comparisons"] == 1


def test_it_measures_no_model_and_measures_once(root: Path) -> None:
    made = agreement(root, THREE, reward=table(root, "1.0"))
    assert type(made).needs_model is False
    assert made.measure(None) is made.measure(None)
    assert made.evaluate(None, 3) == dict(made.measure(None).metrics)


def test_a_reward_needs_a_tokenizer_from_somewhere(root: Path) -> None:
    def without_model(reward: Any, **more: Any) -> Any:
        source = {"name": "inline", "records": THREE}
        settings = {"name": "agreement", "source": source, "part": "all", "reward": reward, **more}
        stage = {"name": "evaluate", "evaluators": [settings]}
        config, plugins = configure({"heldout": 0.0, "stages": {"stage": stage}})
        made = context(root, plugins=plugins)
        return config.stages["stage"].config.evaluators[0].build(made, None).measure(None)

    function = table(root, "1.0")
    with pytest.raises(ConfigError, match="Set tokenizer: to a model"):
        without_model(function)
    found = without_model(function, tokenizer=str(root / "policy"))
    assert found.metrics["eval/agreement_reward"] == 0.5
    # A reward model has a tokenizer of its own.
    without_model({"name": "reward_model", "model": str(root / "value")})


def test_no_comparison_on_this_side_of_the_split_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="no comparison in part=heldout of the data source 'inline"):
        agreement(root, THREE, part="heldout")
