"""Evaluators measure the same thing every time; compare writes samples side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import EOS, rl_models
from support import configure, context, run_stages, word_tokenizer

from fairlead.errors import ConfigError, DataError
from fairlead.models import load_causal
from fairlead.plugins import Plugins, load_plugins
from fairlead.strategy import SingleDevice
from fairlead.tokenizers import load_tokenizer

PROMPTS = {"name": "inline", "records": [{"prompt": f"w{i} w{i + 1}"} for i in range(12)]}


def build(root: Path, settings: dict[str, Any], plugins: Plugins | None = None) -> Any:
    """An evaluator in the directory of a stage, as the ppo stage makes it."""
    stage = {
        "name": "ppo",
        "policy": str(root / "policy"),
        "value": str(root / "value"),
        "reward": {"name": "function", "function": f"{root / 'count.py'}:count"},
        "prompts": PROMPTS,
        "evaluators": [settings],
    }
    config, plugins = configure(
        {"heldout": 0.0, "stages": {"stage": stage}}, plugins=plugins or load_plugins()
    )
    made = context(root, plugins=plugins)
    tokenizer = load_tokenizer(str(root / "policy"))
    return config.stages["stage"].config.evaluators[0].build(made, tokenizer)


def reward_evaluator(root: Path, **changes: Any) -> Any:
    settings = {
        "name": "reward",
        "prompts": PROMPTS,
        "part": "all",
        "reward": {"name": "reward_model", "model": str(root / "value")},
        "count": 10,
        "max_new_tokens": 4,
        **changes,
    }
    return build(root, settings)


def policy(root: Path) -> Any:
    return load_causal(str(root / "policy"), SingleDevice("cpu"), trained=True)


def test_the_reward_is_paired_with_the_start(tmp_path: Path) -> None:
    """The same prompts and draws every time: the gain's error is that of paired differences."""
    rl_models(tmp_path)
    model, evaluator = policy(tmp_path), reward_evaluator(tmp_path)
    start = evaluator.evaluate(model, 0)
    assert set(start) == {"eval/reward", "eval/reward_se"}
    assert "eval/reward_gain" not in start
    unchanged = evaluator.evaluate(model, 1)
    assert unchanged["eval/reward"] == start["eval/reward"]
    assert (unchanged["eval/reward_gain"], unchanged["eval/reward_gain_se"]) == (0.0, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    moved = evaluator.evaluate(model, 2)
    gain = moved["eval/reward"] - start["eval/reward"]
    assert moved["eval/reward_gain"] == pytest.approx(gain, abs=1e-6)
    assert abs(gain) > 1e-3
    assert moved["eval/reward_gain_se"] > 0


def test_a_resumed_run_is_paired_with_the_same_start(tmp_path: Path) -> None:
    """Another process makes the evaluator anew; step 0 is not measured again."""
    rl_models(tmp_path)
    model = policy(tmp_path)
    reward_evaluator(tmp_path).evaluate(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    first = reward_evaluator(tmp_path).evaluate(model, 2)
    again = reward_evaluator(tmp_path).evaluate(model, 2)
    assert first == again
    assert first["eval/reward_gain"] != 0


def test_the_standard_error_by_hand(tmp_path: Path) -> None:
    """Scores of the first words' counts; s / sqrt(n) with n - 1 in s."""
    rl_models(tmp_path)
    function = {"name": "function", "function": f"{tmp_path / 'words.py'}:words"}
    (tmp_path / "words.py").write_text(
        "def words(prompts, responses, metadata):\n"
        "    return [float(p.split()[0][1:]) for p in prompts]\n"
    )
    found = reward_evaluator(tmp_path, reward=function, count=4).evaluate(policy(tmp_path), 0)
    # scores 0, 1, 2, 3: mean 1.5, variance 5/3
    assert found["eval/reward"] == 1.5
    assert found["eval/reward_se"] == pytest.approx((5 / 3) ** 0.5 / 2)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluator_restores_the_models_mode(tmp_path: Path, training: bool) -> None:
    rl_models(tmp_path)
    model = policy(tmp_path).train(training)
    reward_evaluator(tmp_path).evaluate(model, 0)
    nll = {"name": "nll", "source": {"name": "inline", "records": [{"text": "w1 w2 w3"}] * 4}}
    build(tmp_path, {**nll, "part": "all", "block_tokens": 4}).evaluate(model, 0)
    assert model.training is training


def test_prompts_that_leave_no_room_are_an_error(tmp_path: Path) -> None:
    rl_models(tmp_path)
    evaluator = reward_evaluator(tmp_path, max_new_tokens=63)
    with pytest.raises(DataError, match="none of 12 held-out prompts can be used"):
        evaluator.evaluate(policy(tmp_path), 0)


def test_responses_as_long_as_the_context_are_an_error_that_names_it(tmp_path: Path) -> None:
    rl_models(tmp_path)
    for asked in (64, 1000):
        evaluator = reward_evaluator(tmp_path, max_new_tokens=asked)
        with pytest.raises(ConfigError, match=rf"={asked} leaves no room.* 64 .* 63 at most"):
            evaluator.evaluate(policy(tmp_path), 0)


def test_nll_is_the_mean_over_the_tokens_of_packed_text(tmp_path: Path) -> None:
    rl_models(tmp_path)
    texts = ["w1 w2 w3", "w4 w5 w6 w7", "w8"]
    settings = {
        "name": "nll",
        "source": {"name": "inline", "records": [{"text": text} for text in texts]},
        "part": "all",
        "block_tokens": 5,
    }
    model = policy(tmp_path)
    found = build(tmp_path, settings).evaluate(model, 3)
    # Documents end to end with <eos> between: 11 tokens, two blocks of 5.
    blocks = torch.tensor([[1, 2, 3, EOS, 4], [5, 6, 7, EOS, 8]])
    logits = model(input_ids=blocks).logits[:, :-1].flatten(0, 1)
    by_hand = torch.nn.functional.cross_entropy(logits, blocks[:, 1:].flatten())
    assert found == {"eval/nll": pytest.approx(float(by_hand.detach()), abs=1e-5)}


def compare(root: Path, **changes: Any) -> dict[str, Any]:
    stage = {
        "name": "compare",
        "models": {
            "first": str(root / "policy"),
            "second": str(root / "reference"),
            "again": str(root / "policy"),
        },
        "prompts": PROMPTS,
        "part": "all",
        "reward": {"name": "reward_model", "model": str(root / "value")},
        "count": 5,
        "max_new_tokens": 6,
        **changes,
    }
    return {"heldout": 0.0, "stages": {"compare": stage}}


def samples(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "compare" / "samples.jsonl").open()]


def test_compare_writes_every_models_response_to_the_same_prompts(tmp_path: Path) -> None:
    rl_models(tmp_path)
    summary = run_stages(compare(tmp_path), tmp_path / "out")["compare"]
    rows = samples(tmp_path / "out")
    assert [row["prompt"] for row in rows] == [f"w{i} w{i + 1}" for i in range(5)]
    assert summary["prompts"] == 5
    for row in rows:
        assert list(row["responses"]) == ["first", "second", "again"]
        # The same model is given the same draws.
        assert row["responses"]["first"] == row["responses"]["again"]
    assert any(row["responses"]["first"] != row["responses"]["second"] for row in rows)
    for name in ("first", "second", "again"):
        mean = sum(row["responses"][name]["score"] for row in rows) / 5
        assert summary[f"mean_score/{name}"] == pytest.approx(mean, abs=1e-6)


def test_compare_without_a_reward_has_no_scores(tmp_path: Path) -> None:
    rl_models(tmp_path)
    run_stages(compare(tmp_path, reward=None, temperature=0), tmp_path / "out")
    entries = [entry for row in samples(tmp_path / "out") for entry in row["responses"].values()]
    assert {entry["score"] for entry in entries} == {None}
    assert all(entry["text"] for entry in entries)


def test_compare_refuses_models_of_another_vocabulary(tmp_path: Path) -> None:
    rl_models(tmp_path)
    swapped = ["w1", "w0", *(f"w{i}" for i in range(2, 22))]
    word_tokenizer(swapped).save_pretrained(tmp_path / "reference")
    with pytest.raises(ConfigError, match=r"model 'second' does not share.*2 of 24 tokens"):
        run_stages(compare(tmp_path), tmp_path / "out")
