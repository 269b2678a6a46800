"""Collecting a rollout: what is scored and trained, where values stand, what stops a response."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import (
    EOS,
    PROMPTS,
    PTX,
    SpyReward,
    pairs,
    responses_of,
    rl_config,
    rl_models,
    rollout_settings,
    tiny_actors,
)
from support import configure, run_stages
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import fairlead.ragged
from fairlead.components import RewardBatch, Scores
from fairlead.errors import ConfigError, RewardError
from fairlead.rollout import Actors, Rollout, collect, truncation_rule


def gather(actors: Actors, prompts: Any = PROMPTS, **changes: Any) -> Rollout:
    keys = {"seed": 3, "iteration": 1, "samples_per_prompt": 1, "full_kl": False}
    given = {key: changes.pop(key, value) for key, value in keys.items()}
    return collect(actors, pairs(prompts), rollout_settings(**changes), policy_version=0, **given)


def reference_logprobs(model: Any, rollout: Rollout, temperature: float = 1.0) -> list[Any]:
    """Log-probs of each row's response tokens, one whole unpadded forward a row."""
    found = []
    for tokens, prompt, response in zip(
        rollout.tokens, rollout.prompt_lengths, rollout.response_lengths, strict=True
    ):
        ids = tokens[: prompt + response]
        logp = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
        found.append(logp[prompt - 1 : -1].gather(1, ids[prompt:, None])[:, 0].detach())
    return found


def assert_rows(padded: torch.Tensor, rows: list[Any], tolerance: float) -> None:
    for line, row in zip(padded, rows, strict=True):
        torch.testing.assert_close(line[: len(row)], row, rtol=0, atol=tolerance)
        assert bool((line[len(row) :] == 0).all())


def merging_tokenizer() -> Any:
    """Its pieces a, b decode to "ab", which it encodes as the one piece ab."""
    letters = ["a", "b", "c", "d", "e", "f"]
    merges = [(one, other) for one in "abcd" for other in "abcd"]
    pieces = [*letters, *(one + other for one, other in merges), "<eos>", "<pad>"]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")


def test_scored_and_trained_ids_are_the_sampled_ids(tmp_path: Path) -> None:
    """Fidelity item 9: nothing is decoded and tokenised again."""
    actors = tiny_actors(tmp_path, tokenizer=merging_tokenizer())
    rollout = gather(actors, max_new_tokens=12)
    sampled = [generated.tokens.tolist() for generated in actors.backend.generated]  # type: ignore[attr-defined]
    again = [actors.tokenizer(text)["input_ids"] for text in rollout.responses]
    assert sum(a != b[:-1] and a != b for a, b in zip(again, sampled, strict=True)) >= 3
    assert responses_of(rollout) == sampled
    assert responses_of(actors.reward.batches[0]) == sampled  # type: ignore[attr-defined]
    assert rollout.scores.tolist() == [float(ids[0]) for ids in sampled]
    assert_rows(rollout.logprobs, reference_logprobs(actors.policy, rollout), 1e-5)


def test_temperature_divides_policy_sampler_and_reference_alike(tmp_path: Path) -> None:
    """Fidelity item 10."""
    actors = tiny_actors(tmp_path, initializer_range=0.5)
    rollout = gather(actors, temperature=0.6)
    policy = reference_logprobs(actors.policy, rollout, 0.6)
    assert_rows(rollout.logprobs, policy, 1e-5)
    assert_rows(rollout.sampler_logprobs, policy, 1e-4)
    assert_rows(rollout.ref_logprobs, reference_logprobs(actors.reference, rollout, 0.6), 1e-5)
    # The tolerance tells temperatures apart: at 1 every row is another.
    plain = reference_logprobs(actors.policy, rollout)
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(plain, policy, strict=True))


@pytest.mark.parametrize("key", ["top_p", "top_k"])
def test_truncated_sampling_is_refused_with_the_reason(tmp_path: Path, key: str) -> None:
    """Fidelity item 10."""
    raw = rl_config(tmp_path, rollout={"max_new_tokens": 4, key: 0.9})
    with pytest.raises(ConfigError, match=rf"rollout: {key}: refused, since the log-probs"):
        configure(raw)


def test_full_kl_is_the_sum_over_the_vocabulary_at_the_rollout_temperature(tmp_path: Path) -> None:
    """Fidelity item 15: sum_v p_v (log p_v - log q_v) at each response token."""
    actors = tiny_actors(tmp_path, initializer_range=0.5)
    rollout = gather(actors, temperature=0.8, full_kl=True)
    assert rollout.kl_full is not None
    rows = []
    for tokens, prompt, response in zip(
        rollout.tokens, rollout.prompt_lengths, rollout.response_lengths, strict=True
    ):
        ids = tokens[None, : prompt + response]
        p, q = (
            (model(input_ids=ids).logits[0, prompt - 1 : -1].double() / 0.8).log_softmax(-1)
            for model in (actors.policy, actors.reference)  # type: ignore[misc]
        )
        rows.append((p.exp() * (p - q)).sum(-1).float().detach())
    assert_rows(rollout.kl_full, rows, 1e-5)
    # tokens beyond 1,024 rows go in chunks; without a reference there is nothing to compare to
    with pytest.raises(ValueError, match="needs a reference"):
        gather(replace(actors, reference=None), full_kl=True)


def test_first_stop_token_ends_the_response_and_belongs_to_it(tmp_path: Path) -> None:
    """Fidelity item 11: a stop token only cuts; the draws before it are what they were."""
    stops = (EOS, 5, 11, 17)
    endless = gather(tiny_actors(tmp_path, stop=()), max_new_tokens=12)
    rollout = gather(tiny_actors(tmp_path, stop=stops), max_new_tokens=12)
    for whole, cut, ended in zip(
        responses_of(endless), responses_of(rollout), rollout.ended.tolist(), strict=True
    ):
        first = next((i for i, token in enumerate(whole) if token in stops), None)
        assert cut == (whole if first is None else whole[: first + 1])
        assert ended == (first is not None)
    assert 0 < int(rollout.ended.sum()) < len(rollout)  # both kinds are here
    assert endless.ended.any().item() is False


def test_what_follows_the_stop_token_is_masked(tmp_path: Path) -> None:
    """Fidelity item 11."""
    rollout = gather(tiny_actors(tmp_path, stop=(EOS, 5, 11, 17)), max_new_tokens=12)
    assert rollout.response_mask.sum(1).tolist() == rollout.response_lengths.tolist()
    assert rollout.response_mask.shape[1] == int(rollout.response_lengths.max())
    for name in ("logprobs", "entropy", "sampler_logprobs", "ref_logprobs", "values"):
        assert bool((getattr(rollout, name)[~rollout.response_mask] == 0).all()), name
    assert bool((rollout.logprobs[rollout.response_mask] < 0).all())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", [2.0, 3.0, -4.0]),
        # responses 1 and 2 were cut by the limit, response 0 ended by itself
        ({"replace": -1.0}, [2.0, -1.0, -1.0]),
        ({"subtract": 0.5}, [2.0, 2.5, -4.5]),
    ],
)
def test_truncation_rule(rule: Any, expected: list[float]) -> None:
    """Fidelity item 11: `none` by default, `replace` (LHP), `subtract` (TRL)."""
    assert rollout_settings().truncation == "none"
    scores, ended = torch.tensor([2.0, 3.0, -4.0]), torch.tensor([True, False, False])
    found = truncation_rule(scores, ended, rollout_settings(truncation=rule))
    assert found.tolist() == expected


def test_truncation_looks_at_the_stop_token_and_not_at_eos(tmp_path: Path) -> None:
    """Fidelity item 31: EOS inside a response neither ends it nor spares it the penalty."""
    actors = replace(tiny_actors(tmp_path, stop=(5, 11)), reward=SpyReward(lambda ids: 1.0))
    rollout = gather(actors, PROMPTS * 8, max_new_tokens=10, truncation={"replace": -1.0})
    with_eos_inside = 0
    for ids, score, ended in zip(
        responses_of(rollout), rollout.scores.tolist(), rollout.ended.tolist(), strict=True
    ):
        assert ended == (ids[-1] in (5, 11))
        assert score == (1.0 if ended else -1.0)
        with_eos_inside += EOS in ids[:-1]
    assert with_eos_inside >= 3
    assert not bool(rollout.ended.all())


def test_same_sequences_whatever_the_token_budget_and_the_neighbours(tmp_path: Path) -> None:
    """Fidelity item 14: draws depend on (seed, iteration, sequence, position) alone."""
    actors = tiny_actors(tmp_path, initializer_range=0.2)
    whole = responses_of(gather(actors))
    for budget in (1, 40, 1000):
        assert responses_of(gather(actors, token_budget=budget)) == whole
    for count in (1, 3, 5):
        assert responses_of(gather(actors, PROMPTS[:count])) == whole[:count]
    # another neighbour, longer than all, changes nothing of the others
    longer = [*PROMPTS[:-1], list(range(20))]
    assert responses_of(gather(actors, longer))[:-1] == whole[:-1]


def test_draws_differ_by_iteration_seed_sample_and_position(tmp_path: Path) -> None:
    """Fidelity item 14."""
    actors = tiny_actors(tmp_path)
    first = responses_of(gather(actors))
    assert responses_of(gather(actors)) == first
    assert responses_of(gather(actors, iteration=2)) != first
    assert responses_of(gather(actors, seed=4)) != first
    same = [[1, 2]] * 6
    several = responses_of(gather(actors, same))
    assert len({tuple(ids) for ids in several}) == 6
    assert any(len(set(ids)) > 2 for ids in several)


def test_values_are_those_of_the_state_before_each_token(tmp_path: Path) -> None:
    """Fidelity item 28: column t is read at the position of token t - 1."""
    actors = tiny_actors(tmp_path, initializer_range=0.5)
    assert actors.value is not None
    actors.value.bias.data.fill_(0.25)
    rollout = gather(actors)
    rows = []
    for tokens, prompt, response in zip(
        rollout.tokens, rollout.prompt_lengths, rollout.response_lengths, strict=True
    ):
        body, head = actors.value.model.base_model, actors.value.model.score.weight[0]
        hidden = body(input_ids=tokens[None, : prompt + response]).last_hidden_state[0]
        rows.append((hidden[prompt - 1 : -1] @ head + 0.25).detach())
    assert_rows(rollout.values, rows, 1e-5)


def test_sequences_are_contiguous_and_padded_on_the_right(tmp_path: Path) -> None:
    """Fidelity item 27."""
    rollout = gather(tiny_actors(tmp_path, stop=(EOS, 5, 11, 17)))
    longest = max(rollout.lengths)
    assert rollout.tokens.shape == (len(PROMPTS), longest)
    for tokens, prompt, length in zip(rollout.tokens, PROMPTS, rollout.lengths, strict=True):
        assert tokens[: len(prompt)].tolist() == list(prompt)
        assert tokens[length:].tolist() == [0] * (longest - length)
    for row, flags in enumerate(rollout.targets):
        first, last = len(PROMPTS[row]), rollout.lengths[row] - 1
        assert flags.nonzero().flatten().tolist() == list(range(first, last + 1))


def test_samples_of_a_prompt_stand_side_by_side(tmp_path: Path) -> None:
    """DESIGN, Rollout: B is the prompts times the samples of each."""
    rollout = gather(tiny_actors(tmp_path), PROMPTS[:3], samples_per_prompt=4)
    assert len(rollout) == 12
    assert rollout.samples_per_prompt == 4
    for row in range(12):
        prompt = list(PROMPTS[row // 4])
        assert rollout.tokens[row, : len(prompt)].tolist() == prompt
    assert len({tuple(ids) for ids in responses_of(rollout)}) == 12


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error_with_the_prompt(
    tmp_path: Path, wrong: float
) -> None:
    actors = replace(tiny_actors(tmp_path), reward=SpyReward(lambda ids: wrong))
    with pytest.raises(RewardError, match=r"finite number is needed.*'w1 w2 w3'") as caught:
        gather(actors)
    assert caught.value.exit_code == 3


def test_a_reward_with_the_wrong_number_of_scores_is_an_error(tmp_path: Path) -> None:
    class Short:
        def score(self, batch: RewardBatch) -> Scores:
            return Scores(torch.zeros(len(batch.tokens) - 1))

    with pytest.raises(RewardError, match=r"shape \[7\] for 8 responses"):
        gather(replace(tiny_actors(tmp_path), reward=Short()))


def test_no_forward_of_the_rl_stage_has_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fidelity item 12: whatever the models' own configuration says."""
    rl_models(tmp_path, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    active: list[float] = []
    calls = {"dropout": 0, "attention": 0}
    dropout, attention = (
        torch.nn.functional.dropout,
        torch.nn.functional.scaled_dot_product_attention,
    )

    def spy_dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        calls["dropout"] += 1
        if training and p > 0:
            active.append(p)
        return dropout(x, p, training, inplace)

    def spy_attention(*args: Any, **kwargs: Any) -> Any:
        calls["attention"] += 1
        if kwargs.get("dropout_p", 0.0) > 0:
            active.append(kwargs["dropout_p"])
        return attention(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "dropout", spy_dropout)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy_attention)
    ragged = fairlead.ragged.ragged_attention

    def spy_ragged(*args: Any) -> Any:  # it has no dropout to be active
        calls["attention"] += 1
        return ragged(*args)

    monkeypatch.setattr(fairlead.ragged, "ragged_attention", spy_ragged)
    evaluator = {
        "name": "reward",
        "prompts": {"name": "inline", "records": [{"prompt": "w1"}, {"prompt": "w2"}]},
        "part": "all",
        "reward": {"name": "reward_model", "model": str(tmp_path / "value")},
        "max_new_tokens": 3,
    }
    raw = rl_config(tmp_path, auxiliary=[PTX], evaluators=[evaluator], evaluate_every=1)
    run_stages(raw, tmp_path / "out")
    assert calls["dropout"] > 100
    assert calls["attention"] > 50
    assert active == []
