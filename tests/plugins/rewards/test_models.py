"""Rewards that are models: one that reads ids, one that reads text, and sums of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import rl_config, rl_models
from support import (
    configure,
    context,
    metrics,
    run_stages,
    save_causal,
    save_scalar,
    tiny_config,
    word_tokenizer,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fairlead.components import RewardBatch
from fairlead.data import pad
from fairlead.errors import ConfigError
from fairlead.records import Prompt, Turn
from fairlead.tokenizers import load_tokenizer
from fairlead_plugins.rewards.text import ClassifierConfig, ClassifierReward
from fairlead_plugins.rewards.token import RewardModelConfig, RewardModelReward

WORDS = [f"w{i}" for i in range(22)]


def ids_batch(prompts: list[list[int]], responses: list[list[int]]) -> RewardBatch:
    names = [" ".join(WORDS[i] for i in ids) + " " for ids in prompts]
    texts = [" ".join(WORDS[i] for i in ids if i < 22) for ids in responses]
    return RewardBatch(
        tokens=pad([[*p, *r] for p, r in zip(prompts, responses, strict=True)], fill=3),
        prompt_lengths=torch.tensor([len(p) for p in prompts]),
        response_lengths=torch.tensor([len(r) for r in responses]),
        prompts=[Prompt(turns=(Turn("user", name),)) for name in names],
        responses=texts,
    )


BATCH = ids_batch([[1], [2, 3, 4], [5, 6]], [[7, 8, 9, 22], [10], [11, 12]])


def spoil_bias(directory: Path, bias: float) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fairlead_bias": bias}))


@pytest.mark.parametrize("token_budget", [1, 12, 1000])
def test_a_reward_model_reads_the_sampled_ids_at_the_last_token(
    tmp_path: Path, token_budget: int
) -> None:
    """Fidelity items 5, 7 and 9: by one unpadded forward a row, and the bias."""
    location = save_scalar(tmp_path / "rm")
    spoil_bias(location, -0.5)
    config = RewardModelConfig(model=str(location), token_budget=token_budget)
    tokenizer = load_tokenizer(str(location))
    made = RewardModelReward(config, context(tmp_path), tokenizer)
    model: Any = AutoModelForSequenceClassification.from_pretrained(location).eval()
    rows = zip(BATCH.tokens, BATCH.prompt_lengths + BATCH.response_lengths, strict=True)
    expected = [
        float(model(input_ids=ids[None, :n]).logits[0, 0].detach()) - 0.5 for ids, n in rows
    ]
    assert made.score(BATCH).total.tolist() == pytest.approx(expected, abs=1e-5)
    assert not any(p.requires_grad for p in made.model.parameters())


def test_another_vocabulary_is_refused_and_the_tokens_named(tmp_path: Path) -> None:
    """Issue 2, bad input: by ids, not by size."""
    policy = save_causal(tmp_path / "policy")
    swapped = save_scalar(tmp_path / "rm")
    word_tokenizer(["w1", "w0", *WORDS[2:]]).save_pretrained(swapped)
    tokenizer = load_tokenizer(str(policy))
    with pytest.raises(ConfigError) as caught:
        RewardModelReward(RewardModelConfig(model=str(swapped)), context(tmp_path), tokenizer)
    assert "2 of 24 tokens differ ('w0' is 0 here and 1 there, 'w1' is 1 here and 0 there)" in str(
        caught.value
    )
    assert caught.value.exit_code == 2


def test_a_reward_model_may_have_a_pad_token_of_its_own(tmp_path: Path) -> None:
    """DESIGN, Checkpoints: a pad token is added where the policy's tokenizer has none."""
    location = save_scalar(tmp_path / "rm")  # w0..w21, <eos>, <pad>
    policy = word_tokenizer(WORDS, pad=None)
    assert len(policy) == 23
    config = RewardModelConfig(model=str(location))
    made = RewardModelReward(config, context(tmp_path), policy)
    assert made.score(BATCH).total.isfinite().all()


def test_the_value_model_and_the_reference_share_the_vocabulary_too(tmp_path: Path) -> None:
    rl_models(tmp_path)
    for role in ("value", "reference"):
        word_tokenizer(["w1", "w0", *WORDS[2:]]).save_pretrained(tmp_path / role)
        with pytest.raises(ConfigError, match=f"the {role}.*does not share.*2 of 24 tokens"):
            run_stages(rl_config(tmp_path), tmp_path / f"out-{role}")
        word_tokenizer(WORDS).save_pretrained(tmp_path / role)


# --- any sequence classifier ---------------------------------------------------------------


def save_classifier(directory: Path, labels: list[str], *, pad_token: bool = True) -> Path:
    """A tiny BERT-like reader of text with a vocabulary of its own."""
    config = tiny_config("gpt2", num_labels=len(labels), vocabulary=30)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.pad_token_id = 29 if pad_token else None
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    # the same words in reverse order: ids of one mean nothing to the other
    words = ["other", *reversed(WORDS), *(f"x{i}" for i in range(5))]
    word_tokenizer(words, pad="<pad>" if pad_token else None).save_pretrained(directory)
    return directory


def by_hand(location: Path, texts: list[str], label: int) -> list[float]:
    model: Any = AutoModelForSequenceClassification.from_pretrained(location).eval()
    tokenizer = AutoTokenizer.from_pretrained(location)
    ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    return [float(model(input_ids=one).logits[0, label].detach()) for one in ids]


@pytest.mark.parametrize("label", [2, "joy"])
@pytest.mark.parametrize("pad_token", [True, False])
@pytest.mark.parametrize("text", ["prompt_and_response", "response"])
def test_a_classifier_reads_text_with_its_own_tokenizer(
    tmp_path: Path, label: int | str, pad_token: bool, text: str
) -> None:
    location = save_classifier(tmp_path / "judge", ["fear", "rage", "joy"], pad_token=pad_token)
    config = ClassifierConfig(model=str(location), label=label, text=text, batch_size=2)
    made = ClassifierReward(config, context(tmp_path), word_tokenizer(WORDS))
    texts = [
        (prompt.prompt_text if text == "prompt_and_response" else "") + response
        for prompt, response in zip(BATCH.prompts, BATCH.responses, strict=True)
    ]
    assert made.score(BATCH).total.tolist() == pytest.approx(by_hand(location, texts, 2), abs=1e-5)


@pytest.mark.parametrize("label", [None, 7, "bliss"])
def test_a_label_the_classifier_has_not_is_refused(tmp_path: Path, label: Any) -> None:
    location = save_classifier(tmp_path / "judge", ["fear", "rage", "joy"])
    config = ClassifierConfig(model=str(location), label=label)
    with pytest.raises(ConfigError, match=r"has the labels .*'joy'.*is none of them"):
        ClassifierReward(config, context(tmp_path), None)


def test_the_only_label_needs_no_name_and_the_recorded_bias_counts(tmp_path: Path) -> None:
    location = save_classifier(tmp_path / "judge", ["score"])
    spoil_bias(location, 2.0)
    made = ClassifierReward(ClassifierConfig(model=str(location)), context(tmp_path), None)
    texts = [p.prompt_text + r for p, r in zip(BATCH.prompts, BATCH.responses, strict=True)]
    expected = [score + 2.0 for score in by_hand(location, texts, 0)]
    assert made.score(BATCH).total.tolist() == pytest.approx(expected, abs=1e-5)


def test_of_a_text_longer_than_the_context_the_end_is_read(tmp_path: Path) -> None:
    """The classifier has 64 positions; the response stands at the end."""
    location = save_classifier(tmp_path / "judge", ["score"])
    made = ClassifierReward(ClassifierConfig(model=str(location)), context(tmp_path), None)
    long = ids_batch([[1] * 100], [[7, 8, 9]])
    (whole,) = [p.prompt_text + r for p, r in zip(long.prompts, long.responses, strict=True)]
    kept = " ".join(whole.split()[-64:])
    assert made.score(long).total.tolist() == pytest.approx(by_hand(location, [kept], 0), abs=1e-5)


def test_a_directory_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = ClassifierConfig(model=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="not a model directory"):
        ClassifierReward(config, context(tmp_path), None)


# --- sums ----------------------------------------------------------------------------------


def terms(root: Path) -> dict[str, Any]:
    count = {"name": "function", "function": f"{root / 'count.py'}:count"}
    model = {"name": "reward_model", "model": str(root / "value")}
    return {"count": {"reward": count, "weight": 2.0}, "model": {"reward": model, "weight": -0.5}}


def test_a_sum_is_weighted_and_its_parts_are_not(tmp_path: Path) -> None:
    rl_models(tmp_path)
    raw = rl_config(tmp_path, reward={"name": "sum", "terms": terms(tmp_path)})
    config, plugins = configure(raw)
    made = config.stages["ppo"].config.reward.build(
        context(tmp_path, plugins=plugins), load_tokenizer(str(tmp_path / "policy"))
    )
    found = made.score(BATCH)
    assert found.parts["count"].tolist() == [1.0, 0.0, 0.0]  # w7 is in the first alone
    expected = 2.0 * found.parts["count"] - 0.5 * found.parts["model"]
    torch.testing.assert_close(found.total, expected)


def test_each_term_of_a_sum_is_logged_by_name(tmp_path: Path) -> None:
    """Issue 2, Rewards."""
    rl_models(tmp_path)
    inner = {"name": "sum", "terms": {"again": terms(tmp_path)["count"]}}
    several = {**terms(tmp_path), "nested": {"reward": inner}}
    run_stages(rl_config(tmp_path, reward={"name": "sum", "terms": several}), tmp_path / "out")
    for row in metrics(tmp_path / "out" / "ppo"):
        total = 2 * row["scores/count"] - 0.5 * row["scores/model"] + row["scores/nested"]
        assert row["objective/scores"] == pytest.approx(total, abs=1e-5)
        assert row["scores/nested"] == pytest.approx(2 * row["scores/nested/again"], abs=1e-6)
