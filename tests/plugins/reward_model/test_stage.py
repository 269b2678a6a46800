"""The reward-model stage: what it forwards, what it weighs, what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranking import CPU, EOS, PAD, RANKINGS, ROWS, fresh, recipe
from support import configure, context, metrics, run_stages, save_causal, word_tokenizer

from fairlead.data import pad
from fairlead.encode import EncodedRanking
from fairlead.errors import DataError
from fairlead.records import Comparison
from fairlead.scalar import BIAS, ScalarModel, load_scalar, scalar_from_causal
from fairlead_plugins.reward_model.config import RankingLossConfig
from fairlead_plugins.reward_model.losses import RankingLoss
from fairlead_plugins.reward_model.stage import RewardModelStage, _groups, score_rankings

# --- the training step --------------------------------------------------------------------


def encoded(count: int = 4) -> list[EncodedRanking]:
    return [
        EncodedRanking(
            tuple((1, 2, *range(3, 3 + k + row), EOS) for k in range(row + 2)),
            tuple(float(k) for k in range(row + 2)),
        )
        for row in range(count)
    ]


def gradient(model: ScalarModel, budget: int, root: Path) -> torch.Tensor:
    """As the stage's step 3 computes it."""
    model.zero_grad()
    loss = RankingLoss(RankingLossConfig())
    rankings = encoded()
    for group in _groups(rankings, budget):
        term = loss(score_rankings(model, group, context(root)), [r.ranks for r in group])
        (term.total / len(rankings)).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_gradient_does_not_depend_on_the_microbatches(tmp_path: Path) -> None:
    """Every prompt alone, two together, or all in one forward pass."""
    model = fresh(tmp_path / "lm")
    assert [len(_groups(encoded(), budget)) for budget in (1, 60, 1000)] == [4, 3, 1]
    whole = gradient(model, 1000, tmp_path)
    for budget in (1, 60):
        torch.testing.assert_close(gradient(model, budget, tmp_path), whole, atol=1e-6, rtol=1e-4)


def test_each_response_is_forwarded_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 responses of 4 prompts, though they form 3 + 1 + 5 + 1 = 10 pairs: 11 rows with a
    gradient an epoch; and every prompt's responses stay in one microbatch.
    """
    rows: list[int] = []
    forward = ScalarModel.forward

    def count(self: ScalarModel, tokens: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            rows.append(len(tokens))
        return forward(self, tokens, *more)

    monkeypatch.setattr(ScalarModel, "forward", count)
    model = save_causal(tmp_path / "lm")
    raw = recipe(model, epochs=2, batch_size=4, token_budget=12)
    run_stages(raw, tmp_path / "out")
    assert sum(rows) == 2 * 11
    assert sorted(rows) == [2, 2, 2, 2, 3, 3, 4, 4]


def test_a_step_is_the_mean_over_its_prompts(tmp_path: Path) -> None:
    """The first step's logged loss: one prompt of 3 pairs and one of 1 pair weigh the same."""
    model = save_causal(tmp_path / "lm")
    raw = recipe(model, RANKINGS[:2], epochs=1, batch_size=2, token_budget=1)
    out = tmp_path / "out"
    run_stages(raw, out)
    seed = context(out, "rm").seed("head")
    start = scalar_from_causal(str(model), 24, PAD, CPU, seed)
    tokens = [[[1, 2, 3, EOS], [1, 2, 4, 5, EOS], [1, 2, 6, EOS]], [[3, 5, 6, EOS], [3, 7, EOS]]]
    losses, scores = [], []
    for prompt in tokens:
        r = start.at_last_token(pad(prompt), torch.tensor([len(i) for i in prompt])).detach()
        scores += r.tolist()
        pairs = [(i, j) for i in range(len(r)) for j in range(i + 1, len(r))]
        losses.append(
            sum(-torch.nn.functional.logsigmoid(r[i] - r[j]) for i, j in pairs) / len(pairs)
        )
    (step,) = metrics(out / "rm")
    assert step["loss/train"] == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
    # Fidelity item 32: over 5 responses, though one microbatch held 3 of them and the other 2.
    assert step["mean_reward"] == pytest.approx(sum(scores) / 5, rel=1e-5)


def test_training_learns_the_ranking(tmp_path: Path) -> None:
    run_stages(recipe(save_causal(tmp_path / "lm"), epochs=30, batch_size=4), tmp_path / "out")
    lines = metrics(tmp_path / "out" / "rm")
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["loss/train"] < lines[0]["loss/train"] / 2


def test_the_rate_is_cosine_to_a_tenth(tmp_path: Path) -> None:
    run_stages(recipe(save_causal(tmp_path / "lm")), tmp_path / "out")
    rates = [line["lr"] for line in metrics(tmp_path / "out" / "rm") if "lr" in line]
    assert len(rates) == 10
    assert (rates[0], rates[-1]) == (pytest.approx(1e-2), pytest.approx(1e-3))


# --- item 7: the bias ---------------------------------------------------------------------


def test_demonstrations_score_zero_on_average_after_training(tmp_path: Path) -> None:
    """Fidelity item 7: with a source of their own, or the best response of each prompt."""
    demonstrations = [
        {"prompt": "w9", "completion": " w8 w7"},
        {"prompt": "w2 w2 w2", "completion": " w1"},
        {"prompt": "w4", "completion": " w4 w4 w4 w4 w4"},
    ]
    own = {"demonstrations": {"name": "inline", "records": demonstrations}}
    sequences = [[9, 8, 7, EOS], [2, 2, 2, 1, EOS], [4, 4, 4, 4, 4, 4, EOS]]
    best = [[1, 2, 3, EOS], [3, 5, 6, EOS], [5, 1, 9, 8, 8, 8, EOS], [7, 12, EOS]]
    model = save_causal(tmp_path / "lm")
    for name, more, ids in (("own", own, sequences), ("best", {}, best)):
        summary = run_stages(recipe(model, **more), tmp_path / name)["rm"]
        saved = load_scalar(str(tmp_path / name / "rm"), CPU, trained=False)
        scores = saved.at_last_token(pad(ids), torch.tensor([len(row) for row in ids]))
        assert abs(scores.mean().item()) < 1e-5
        config = json.loads((tmp_path / name / "rm" / "config.json").read_text())
        assert config[BIAS] == pytest.approx(summary["bias"])
        assert summary["bias"] == pytest.approx(saved.bias.item())
        assert abs(summary["bias"]) > 1e-4


def test_a_value_model_starts_with_the_bias_of_the_reward_model(tmp_path: Path) -> None:
    """Fidelity items 7 and 26: a copy of it, with weights of its own."""
    summary = run_stages(recipe(save_causal(tmp_path / "lm")), tmp_path / "out")["rm"]
    where = str(tmp_path / "out" / "rm")
    value = load_scalar(where, CPU, trained=True)
    reward = load_scalar(where, CPU, trained=False)
    assert value.bias.item() == reward.bias.item() == pytest.approx(summary["bias"])
    tokens, lengths = pad(ROWS), torch.tensor([4, 2, 6])
    assert torch.equal(value.at_last_token(tokens, lengths), reward.at_last_token(tokens, lengths))
    assert all(p.requires_grad for p in value.parameters())
    assert not any(p.requires_grad for p in reward.parameters())
    mine = {p.data_ptr() for p in value.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in reward.parameters())


def test_demonstrations_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    long = {"records": [{"prompt": "w1", "completion": " w2" * 20}], "name": "inline"}
    raw = recipe(save_causal(tmp_path / "lm"), max_tokens=10, demonstrations=long)
    with pytest.raises(DataError, match="no demonstration fits in 10 tokens"):
        run_stages(raw, tmp_path / "out")


# --- item 8: what is measured, and the split ----------------------------------------------


def many(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    """Two comparisons for each of `count` prompts, of one user each where there is any."""
    return [
        {
            "prompt": f"w{i % 20} w{i // 20}",
            "responses": [f" w{turn}", f" w{turn + 1} w3", " w5"],
            "ranks": [0, 1, 2],
            **({"user": f"u{i % more['users']}"} if "users" in more else {}),
        }
        for i in range(count)
        for turn in (1, 7)
    ]


def test_the_held_out_accuracy_has_an_interval_and_a_calibration_table(tmp_path: Path) -> None:
    """Fidelity item 8."""
    raw = recipe(save_causal(tmp_path / "lm"), many(), heldout=0.3, epochs=1, batch_size=8)
    summary = run_stages(raw, tmp_path / "out")["rm"]
    # Each prompt is ranked twice, three answers each time; one that was is still one prompt.
    assert summary["prompts"] + summary["heldout_prompts"] == 40
    assert summary["rankings"] == 2 * summary["prompts"]
    assert summary["pairs"] == 2 * 3 * summary["heldout_prompts"]
    low, high = summary["accuracy_low"], summary["accuracy_high"]
    assert 0 <= low <= summary["accuracy"] <= high <= 1
    assert low < high
    assert sum(row["count"] for row in summary["calibration"]) == summary["pairs"] - summary["ties"]
    lines = metrics(tmp_path / "out" / "rm")
    assert {"heldout/accuracy", "heldout/loss"} <= set(lines[0])
    assert lines[-1]["heldout/accuracy"] == pytest.approx(summary["accuracy"])


@pytest.mark.parametrize("users", [None, 8])
def test_splits_are_by_user_where_known_else_by_prompt(users: int | None, tmp_path: Path) -> None:
    """Fidelity item 8: never by pair, so nothing of a prompt (a user) is on both sides."""
    records = many() if users is None else many(users=users)
    raw = recipe(save_causal(tmp_path / "lm"), records)["stages"]["rm"]
    ctx = context(tmp_path, "rm", heldout=0.3)
    config, _ = configure({"stages": {"rm": raw}})
    source = config.stages["rm"].config.source
    sides = [ctx.records(source, Comparison, part) for part in ("train", "heldout")]
    assert len(sides[0]) + len(sides[1]) == 80
    keys = [{r.user if users else r.prompt_text for r in side} for side in sides]
    assert keys[0] and keys[1]
    assert keys[0].isdisjoint(keys[1])


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    """The row of an added pad token included, whatever the global generator did before."""
    source = save_causal(tmp_path / "lm", vocabulary=23, eos_token_id=22, pad_token_id=None)
    word_tokenizer([f"w{i}" for i in range(22)], pad=None).save_pretrained(source)
    files = []
    for name in ("a", "b"):
        torch.manual_seed(len(files))
        run_stages(recipe(source), tmp_path / name)
        files.append((tmp_path / name / "rm" / "model.safetensors").read_bytes())
    assert files[0] == files[1]


# --- what cannot be trained on ------------------------------------------------------------


def test_identical_ranks_only_are_an_error(tmp_path: Path) -> None:
    tied = [{**record, "ranks": [1] * len(record["ranks"])} for record in RANKINGS]
    with pytest.raises(DataError, match="none of 4 prompts has two responses of different rank"):
        run_stages(recipe(save_causal(tmp_path / "lm"), tied), tmp_path / "out")


def test_prompts_too_long_or_without_a_pair_are_left_out_and_counted(tmp_path: Path) -> None:
    extra = [
        {"prompt": "w1", "responses": [" w2" * 30, " w3"], "ranks": [0, 1]},
        {"prompt": "w2", "responses": [" w2", " w3"], "ranks": [1, 1]},
    ]
    raw = recipe(save_causal(tmp_path / "lm"), [*RANKINGS, *extra], max_tokens=20)
    summary = run_stages(raw, tmp_path / "out")["rm"]
    assert (summary["prompts"], summary["dropped_too_long"]) == (4, 2)


def test_held_out_prompts_without_a_pair_do_not_stop_a_run(tmp_path: Path) -> None:
    ctx = context(tmp_path, "rm", heldout=0.5)
    tied = [{"prompt": f"w{i}", "responses": [" w2", " w3"], "ranks": [1, 1]} for i in range(9)]
    raw = recipe(save_causal(tmp_path / "lm"), tied)["stages"]["rm"]
    config, _ = configure({"stages": {"rm": raw}})
    stage = RewardModelStage(config.stages["rm"].config)
    tokenizer = word_tokenizer([f"w{i}" for i in range(22)])
    kept, dropped = stage._rankings(tokenizer, ctx, "heldout")
    assert kept == []
    assert dropped > 0
