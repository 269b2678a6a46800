"""How often one model's responses win, and how many tasks it gets right, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from measuring import asked, build, model, scripted
from rl import EOS, rl_models
from support import word_tokenizer

from fairlead.errors import ConfigError, DataError, RewardError
from fairlead.plugins import Plugins

PROMPTS = {
    "name": "inline",
    "records": [{"prompt": f"w{i}", "about": {"topic": f"t{i // 2}"}} for i in range(4)],
}
SCRIPT = {
    "policy": ["w7 w7", "w1", "w7", "w7 w3 w4"],
    "reference": ["w7", "w7", "w7", "w5"],
}
"""By the count of w7 the policy wins, loses, ties with the same text, and wins."""

JUDGES = '''
"""Judges of pairs, good and bad."""
GIVEN = []

def first_place(prompts, firsts, seconds, metadata):
    GIVEN.append((prompts, firsts, seconds, metadata))
    return [1.0] * len(prompts)

def longer(prompts, firsts, seconds, metadata):
    """Prefers the longer one, and somewhat the first place."""
    return [0.9 if len(a) > len(b) else 0.3 for a, b in zip(firsts, seconds)]

def jumble(prompts, responses, metadata):
    return [float(sum(map(ord, response)) % 7) for response in responses]

def too_few(prompts, firsts, seconds, metadata):
    return [1.0]

def too_high(prompts, firsts, seconds, metadata):
    return [1.5 if prompt == "w2" else 1.0 for prompt in prompts]

def not_a_number(prompts, firsts, seconds, metadata):
    return [float("nan") if prompt == "w2" else 1.0 for prompt in prompts]

def raises(prompts, firsts, seconds, metadata):
    if "w2" in prompts:
        raise KeyError("w2")
    return [1.0] * len(prompts)

def none(prompts, firsts, seconds, metadata):
    return None
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "judges.py").write_text(JUDGES)
    return rl_models(tmp_path)


def count(root: Path) -> dict[str, str]:
    return {"name": "function", "function": f"{root / 'count.py'}:count"}


def win_rate(root: Path, plugins: Plugins | None = None, **changes: Any) -> Any:
    judge = {} if "function" in changes else {"reward": count(root)}
    settings = {
        "name": "win_rate",
        "baseline": str(root / "reference"),
        "prompts": PROMPTS,
        "part": "all",
        "max_new_tokens": 4,
        **({"backend": "scripted"} if plugins else {}),
        **judge,
        **changes,
    }
    return build(root, settings, plugins)


def test_the_higher_score_wins_and_equal_ones_share(root: Path) -> None:
    found = win_rate(root, scripted(root, SCRIPT)).measure(model(root))
    assert list(found.outcomes) == [1.0, 0.0, 0.5, 1.0]
    assert list(found.clusters) == ["w0", "w1", "w2", "w3"]
    assert found.metrics["eval/win_rate"] == 0.625
    assert 0.0 <= found.metrics["eval/win_rate_low"] < 0.625
    assert 0.625 < found.metrics["eval/win_rate_high"] <= 1.0
    # (2 + 1 + 1 + 3) / 4 words against 1
    assert found.metrics["eval/win_rate_length_difference"] == 0.75
    assert len(found.metrics) == 4


def test_different_texts_of_equal_score_share_too(root: Path) -> None:
    script = {**SCRIPT, "policy": ["w7 w2", "w7 w7", "w1 w7", "w2"]}
    found = win_rate(root, scripted(root, script)).measure(model(root))
    assert list(found.outcomes) == [0.5, 1.0, 0.5, 0.5]


def test_evaluate_returns_the_metrics_of_measure_by_the_label(root: Path) -> None:
    evaluator = win_rate(root, scripted(root, SCRIPT), label="vs_sft")
    metrics = evaluator.evaluate(model(root), 3)
    assert metrics == dict(evaluator.measure(model(root)).metrics)
    assert set(metrics) == {
        "eval/vs_sft", "eval/vs_sft_low", "eval/vs_sft_high", "eval/vs_sft_length_difference"
    }  # fmt: skip


def test_the_baseline_answers_once(root: Path) -> None:
    evaluator = win_rate(root, scripted(root, SCRIPT))
    evaluator.evaluate(model(root), 1)
    evaluator.evaluate(model(root), 2)
    assert sorted(asked(root)) == ["policy", "policy", "reference"]


@pytest.mark.parametrize("function", [None, "longer"])
def test_a_model_against_itself_wins_exactly_half(root: Path, function: str | None) -> None:
    """Asked greedily, so the same responses; a judge that likes the first place as well."""
    judge = {"function": f"{root / 'judges.py'}:longer"} if function else {}
    if not function:
        judge = {"reward": {"name": "function", "function": f"{root / 'judges.py'}:jumble"}}
    made = win_rate(root, baseline=str(root / "policy"), temperature=0.0, **judge)
    metrics = made.measure(model(root)).metrics
    assert metrics["eval/win_rate"] == 0.5
    assert (metrics["eval/win_rate_low"], metrics["eval/win_rate_high"]) == (0.5, 0.5)
    assert metrics["eval/win_rate_length_difference"] == 0.0


def test_the_baseline_has_draws_of_its_own(root: Path) -> None:
    """With the model's draws a model would say to every prompt what its twin says."""
    made = win_rate(
        root,
        baseline=str(root / "policy"),
        reward={"name": "function", "function": f"{root / 'judges.py'}:jumble"},
        samples=3,
    )
    assert set(made.measure(model(root)).outcomes) - {0.5}


def test_a_judge_is_asked_in_both_orders(root: Path) -> None:
    """One that always prefers the first place says nothing; asked once it gives all to us."""
    function = f"{root / 'judges.py'}:first_place"
    plugins = scripted(root, SCRIPT)
    made = win_rate(root, plugins, function=function)
    assert list(made.measure(model(root)).outcomes) == [0.5] * 4
    forth, back = made.function.__globals__["GIVEN"]
    prompts = ["w0", "w1", "w2", "w3"]
    metadata = [{"about": {"topic": topic}} for topic in ("t0", "t0", "t1", "t1")]
    assert forth == (prompts, SCRIPT["policy"], SCRIPT["reference"], metadata)
    assert back == (prompts, SCRIPT["reference"], SCRIPT["policy"], metadata)
    once = win_rate(root, plugins, function=function, both_orders=False)
    # The third responses are the same text, and so a tie whatever the judge says.
    assert list(once.measure(model(root)).outcomes) == [1.0, 1.0, 0.5, 1.0]


def test_a_judge_with_a_liking_for_one_place(root: Path) -> None:
    """Longer first: 0.9, else 0.3. Of the longer one: (0.9 + 1 - 0.3) / 2; of equals 1/2."""
    made = win_rate(root, scripted(root, SCRIPT), function=f"{root / 'judges.py'}:longer")
    # "w7 w7" over "w7"; "w1" and "w7" are as long; so are "w7" and "w7"; "w7 w3 w4" over "w5"
    assert list(made.measure(model(root)).outcomes) == pytest.approx([0.8, 0.5, 0.5, 0.8])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "returned 1 values for 4 pairs of responses; it must return one float for"),
        ("too_high", "returned 1.5 where a finite number between 0 and 1 is needed, for the prom"),
        ("not_a_number", "returned nan where a finite number between 0 and 1 is needed, for the"),
        ("raises", "raised KeyError: 'w2', for the prompt 'w2' and the responses 'w7' and 'w7'"),
        ("none", "returned 'None' for 4 pairs of responses; it must return a list of one float"),
    ],
)
def test_a_judges_bad_return_is_an_error(root: Path, name: str, message: str) -> None:
    function = f"{root / 'judges.py'}:{name}"
    made = win_rate(root, scripted(root, SCRIPT), function=function)
    with pytest.raises(RewardError) as caught:
        made.measure(model(root))
    assert f"the judge {function} {message}" in str(caught.value)
    if name in ("too_high", "not_a_number"):
        assert "the prompt 'w2' and the responses 'w7' and 'w7'" in str(caught.value)


def test_several_samples_have_draws_of_their_own(root: Path) -> None:
    function = f"{root / 'judges.py'}:first_place"
    made = win_rate(root, function=function, samples=2, count=3, max_new_tokens=8)
    found = made.measure(model(root))
    prompts, mine, theirs, _ = made.function.__globals__["GIVEN"][0]
    assert prompts == list(found.clusters) == ["w0", "w0", "w1", "w1", "w2", "w2"]
    assert len(found.outcomes) == 6
    for said in (mine, theirs):
        assert any(said[row] != said[row + 1] for row in (0, 2, 4))


def test_clusters_may_be_named_by_metadata(root: Path) -> None:
    plugins = scripted(root, SCRIPT)
    found = win_rate(root, plugins, cluster="about.topic").measure(model(root))
    assert list(found.clusters) == ["t0", "t0", "t1", "t1"]
    # Both of two clusters, or one of them twice: (1 + 0) / 2 to (0.5 + 1) / 2.
    assert found.metrics["eval/win_rate_low"] == 0.5
    assert found.metrics["eval/win_rate_high"] == 0.75
    with pytest.raises(DataError, match=r"cluster='about.area'.*at 'area' there is: topic"):
        win_rate(root, plugins, cluster="about.area").measure(model(root))


def test_one_cluster_leaves_the_interval_out(root: Path) -> None:
    found = win_rate(root, scripted(root, {k: v[:1] for k, v in SCRIPT.items()}), count=1)
    assert set(found.measure(model(root)).metrics) == {
        "eval/win_rate", "eval/win_rate_length_difference"
    }  # fmt: skip


def test_a_win_rate_needs_one_judge(root: Path) -> None:
    with pytest.raises(ConfigError, match="neither of reward and function are given; give one"):
        win_rate(root, reward=None)
    function = f"{root / 'judges.py'}:longer"
    with pytest.raises(ConfigError, match="both of reward and function are given; give one"):
        win_rate(root, function=function, reward=count(root))


def test_the_baseline_must_share_the_vocabulary(root: Path) -> None:
    swapped = ["w1", "w0", *(f"w{i}" for i in range(2, 22))]
    word_tokenizer(swapped).save_pretrained(root / "reference")
    with pytest.raises(ConfigError, match=r"the baseline .* does not share.*2 of 24 tokens"):
        win_rate(root)


# --- task_accuracy --------------------------------------------------------------------------


def accuracy(root: Path, **changes: Any) -> Any:
    settings = {
        "name": "task_accuracy",
        "prompts": PROMPTS,
        "part": "all",
        "reward": count(root),
        "max_new_tokens": 4,
        "backend": "scripted",
        **changes,
    }
    return build(root, settings, scripted(root, SCRIPT)).measure(model(root))


@pytest.mark.parametrize(
    ("changes", "outcomes"),
    [
        # The policy says w7 twice, never, once, once.
        ({}, [1.0, 0.0, 1.0, 1.0]),
        ({"threshold": 1.0}, [1.0, 0.0, 1.0, 1.0]),
        ({"threshold": 1.5}, [1.0, 0.0, 0.0, 0.0]),
        ({"outcome": "score"}, [2.0, 0.0, 1.0, 1.0]),
    ],
)
def test_accuracy_is_the_share_at_or_above_the_threshold(
    root: Path, changes: dict[str, Any], outcomes: list[float]
) -> None:
    found = accuracy(root, cluster="about.topic", label="facts", **changes)
    assert list(found.outcomes) == outcomes
    assert list(found.clusters) == ["t0", "t0", "t1", "t1"]
    low, high = sorted((sum(outcomes[:2]) / 2, sum(outcomes[2:]) / 2))
    assert found.metrics == {
        "eval/facts": sum(outcomes) / 4, "eval/facts_low": low, "eval/facts_high": high
    }  # fmt: skip


# --- nll ------------------------------------------------------------------------------------


def nll(root: Path, **changes: Any) -> Any:
    texts = ["w1 w2 w3", "w4 w5 w6 w7", "w8"]
    settings = {
        "name": "nll",
        "source": {"name": "inline", "records": [{"text": text} for text in texts]},
        "part": "all",
        "block_tokens": 5,
        **changes,
    }
    return build(root, settings)


def by_hand(actor: Any, ids: list[int]) -> torch.Tensor:
    """Nats of each token but the first, the sequence read alone."""
    with torch.no_grad():
        logits = actor(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_nll_has_one_outcome_a_block(root: Path) -> None:
    actor = model(root)
    made = nll(root, label="plays", token_budget=5)
    found = made.measure(actor)
    blocks = ([1, 2, 3, EOS, 4], [5, 6, 7, EOS, 8])
    expected = [float(by_hand(actor, block).mean()) for block in blocks]
    assert list(found.outcomes) == pytest.approx(expected, abs=1e-5)
    assert found.metrics == {"eval/plays": pytest.approx(sum(expected) / 2, abs=1e-5)}
    assert made.evaluate(actor, 0) == found.metrics


def test_nll_with_a_document_mask_reads_each_document_alone(root: Path) -> None:
    """Targets are the tokens within a document: 3 of the first block (w4 opens one), 3 of the
    second (w8 opens one; w5 w6 w7 go on what the cut left)."""
    actor = model(root)
    found = nll(root, document_mask=True).measure(actor)
    first, second = by_hand(actor, [1, 2, 3, EOS]), by_hand(actor, [5, 6, 7, EOS])
    expected = [float(first.mean()), float(second.mean())]
    assert list(found.outcomes) == pytest.approx(expected, abs=1e-5)
    assert found.metrics["eval/nll"] == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert found.metrics != nll(root).measure(actor).metrics
