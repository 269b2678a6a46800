"""The update: ratio 1 at first, one step of two summed gradients, whatever the microbatches."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import PTX, crew, responses_of, rl_config, rl_models
from support import metrics, run_stages
from torch import Tensor, nn
from updating import collected, one_iteration

from fairlead.optim import LearningRate, Updater
from fairlead.plugins import load_plugins
from fairlead_plugins.ppo.assemble import Crew
from fairlead_plugins.ppo.update import update

SPY = '''
"""Keeps every policy batch, and the rollout it is of."""
from fairlead import hookimpl
from fairlead_plugins.ppo.losses import ClippedPolicyLoss

ROLLOUTS = []
BATCHES = []

class Spy(ClippedPolicyLoss):
    def __call__(self, batch):
        BATCHES.append((len(ROLLOUTS), batch))
        return super().__call__(batch)

@hookimpl
def register_losses(register):
    register("policy/spy", Spy)

@hookimpl
def rollout_collected(rollout, context):
    ROLLOUTS.append(rollout)
'''


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ratio_is_one_before_the_first_step_of_every_rollout(
    tmp_path: Path, temperature: float
) -> None:
    """Fidelity item 13: within 1e-5 in float32, in all microbatches of the first minibatch.

    And within 1e-4 by the log-probs that the sampler recorded.
    """
    rl_models(tmp_path, initializer_range=0.2)
    plugin = tmp_path / "spy_loss.py"
    plugin.write_text(SPY)
    plugins = load_plugins(extra=[str(plugin)])
    raw = rl_config(
        tmp_path,
        policy_loss="spy",
        iterations=3,
        epochs=2,
        rollout={"max_new_tokens": 6, "token_budget": 20, "temperature": temperature},
    )
    run_stages(raw, tmp_path / "out", plugins=plugins)
    spy: Any = sys.modules["fairlead_plugin_spy_loss"]
    assert len(spy.ROLLOUTS) == 3
    largest_later = 0.0
    for iteration in (1, 2, 3):
        rows = microbatches = 0
        for batch in [b for number, b in spy.BATCHES if number == iteration]:
            mask = batch.response_mask
            off = float(
                (batch.logprobs.detach() - batch.old_logprobs)[mask].exp().sub(1).abs().max()
            )
            if rows < 4:  # of the first minibatch
                assert off <= 1e-5
                microbatches += 1
            else:
                largest_later = max(largest_later, off)
            rows += len(batch.logprobs)
        assert rows == 16
        assert microbatches >= 2
        rollout = spy.ROLLOUTS[iteration - 1]
        drift = (rollout.logprobs - rollout.sampler_logprobs)[rollout.response_mask].abs()
        assert float(drift.max()) <= 1e-4
    assert largest_later > 1e-2  # the models did move


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=tolerance, msg=name)


def ptx_gradients(made: Crew, steps: int) -> list[dict[str, Tensor]]:
    """3 times the mean negative log-likelihood of each step's two blocks, by hand."""
    term: Any = made.learner.auxiliary[0]
    policy = made.learner.policy
    term.feed.cursor = 0
    found = []
    for _ in range(steps):
        blocks = term.blocks[term.feed.take(2)]
        policy.zero_grad(set_to_none=True)
        logits = policy(input_ids=blocks).logits[:, :-1].flatten(0, 1)
        (3.0 * nn.functional.cross_entropy(logits, blocks[:, 1:].flatten())).backward()
        found.append({n: p.grad.clone() for n, p in policy.named_parameters()})
    return found


def test_gradient_of_ppo_ptx_is_the_sum_of_the_two(tmp_path: Path) -> None:
    """Fidelity item 24: both backwards into the same buffers, once for each minibatch."""
    rl_models(tmp_path)
    both, _, found, made = one_iteration(tmp_path, auxiliary=[PTX])
    alone, _, plain, _ = one_iteration(tmp_path)
    assert len(both.steps) == len(alone.steps) == 2  # one optimizer step for each minibatch
    for mixed, ppo, ptx in zip(both.steps, alone.steps, ptx_gradients(made, 2), strict=True):
        assert_same(mixed, {name: ppo[name] + ptx[name] for name in ppo}, 1e-5)
        assert max(float(gradient.abs().max()) for gradient in ptx.values()) > 0.1
    assert "loss/ptx" in found
    assert "loss/ptx" not in plain


class Sgd:
    """Stands in for an optimizer's settings: plain gradient descent at rate 1."""

    def build(self) -> Any:
        return lambda named: torch.optim.SGD([p for _, p in named], lr=1.0)


def test_clipping_comes_after_both_gradients_and_before_the_one_step(tmp_path: Path) -> None:
    """Fidelity item 24: the step is the summed gradient at the clipped norm, 0.01."""
    rl_models(tmp_path)
    whole = {"auxiliary": [{**PTX, "ratio": 0.25}], "minibatch_size": 8}
    recorded, _, _, _ = one_iteration(tmp_path, **whole)
    (both,) = recorded.steps
    norm = float(torch.stack([g.square().sum() for g in both.values()]).sum().sqrt())
    made, cfg, _ = crew(tmp_path, **whole)
    policy = made.learner.policy
    rate = LearningRate(peak=1.0, shape="constant")
    learner = replace(made.learner, policy_updater=Updater(policy, Sgd(), rate, 0.01))  # type: ignore[arg-type]
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    rollout = collected(made, cfg)
    found = update(learner, rollout, learner.algorithm.assign_credit(rollout), 1, seed=2)
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.1
    moved = {name: p.detach() - before[name] for name, p in policy.named_parameters()}
    assert_same(moved, {name: -g * 0.01 / norm for name, g in both.items()}, 1e-6)


def test_gradients_and_metrics_do_not_depend_on_how_the_minibatch_is_cut(tmp_path: Path) -> None:
    """Fidelity items 22 and 32: token means are over the whole minibatch."""
    rl_models(tmp_path)
    # Stop tokens make microbatches of very unequal token counts.
    rollout = {"max_new_tokens": 8, "stop_tokens": ["<eos>", "w5", "w9", "w14"]}
    budgets = [{**rollout, "token_budget": budget} for budget in (1, 24, 10_000)]
    runs = [one_iteration(tmp_path, rollout=settings) for settings in budgets]
    policy, value, found, _ = runs[-1]
    for other_policy, other_value, other, _ in runs[:-1]:
        for models in ((policy, other_policy), (value, other_value)):
            for step, other_step in zip(models[0].steps, models[1].steps, strict=True):
                assert_same(other_step, step, 1e-6)
        assert other == pytest.approx(found, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("normalisation", ["token_mean", "sequence_sum"])
def test_loss_normalisation_by_hand(tmp_path: Path, normalisation: str) -> None:
    """Fidelity item 22: the sum over tokens of -A log pi, over tokens or over sequences.

    At ratio 1 the clipped loss has the gradient of -A log pi. Each row goes through the model
    alone, and the sum is divided once: by the minibatch's tokens, or by its 8 sequences.
    """
    rl_models(tmp_path)
    changes = {
        "rollout": {"max_new_tokens": 8, "stop_tokens": ["<eos>", "w5", "w9"], "token_budget": 30},
        "loss_normalisation": normalisation,
        "minibatch_size": 8,
    }
    recorded, _, _, _ = one_iteration(tmp_path, **changes)
    made, cfg, _ = crew(tmp_path, **changes)
    rollout = collected(made, cfg)
    credit = made.learner.algorithm.assign_credit(rollout)
    total = torch.zeros(())
    for row, (prompt, response) in enumerate(
        zip(rollout.prompt_lengths, rollout.response_lengths, strict=True)
    ):
        ids = rollout.tokens[row, : prompt + response]
        logp = made.learner.policy(input_ids=ids[None]).logits[0, prompt - 1 : -1].log_softmax(-1)
        chosen = logp.gather(1, ids[prompt:, None])[:, 0]
        total = total - (credit.advantages[row, :response] * chosen).sum()
    tokens = int(rollout.response_mask.sum())
    assert tokens % 8  # so that the two divisors tell themselves apart
    (total / (tokens if normalisation == "token_mean" else 8)).backward()  # type: ignore[no-untyped-call]
    policy = made.learner.policy
    by_hand = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    assert_same(recorded.steps[0], by_hand, 1e-5)


def test_the_sampled_ids_are_trained_on(tmp_path: Path) -> None:
    """Fidelity item 9: every sequence the update's forward sees is a sampled one.

    They lie end to end in one row, each from position 0; some may have padding behind them.
    """
    rl_models(tmp_path)
    made, cfg, _ = crew(tmp_path)
    rollout = collected(made, cfg)
    seen: list[list[int]] = []

    def see(module: Any, args: Any, given: dict[str, Any]) -> None:
        for token, position in zip(given["input_ids"][0], given["position_ids"][0], strict=True):
            if position == 0:
                seen.append([])
            seen[-1].append(int(token))

    hook = made.learner.policy.base_model.register_forward_pre_hook(see, with_kwargs=True)
    update(made.learner, rollout, made.learner.algorithm.assign_credit(rollout), 1, seed=2)
    hook.remove()
    sequences = sorted(
        [*made.prompts[row][1], *ids] for row, ids in enumerate(responses_of(rollout))
    )
    longest = max(map(len, sequences))
    padded = sorted([*ids, *[0] * (longest - len(ids))] for ids in sequences)
    assert sorted([*ids, *[0] * (longest - len(ids))] for ids in seen) == padded


def test_plain_ppo_has_no_auxiliary_loss(tmp_path: Path) -> None:
    """Fidelity item 24: PPO-ptx is PPO and one more term."""
    rl_models(tmp_path)
    made, _, _ = crew(tmp_path)
    assert list(made.learner.auxiliary) == []


def test_metrics_carry_the_names_people_know(tmp_path: Path) -> None:
    """REFERENCE, metric names; `rlhf_reward = scores + non_score_reward`."""
    rl_models(tmp_path)
    run_stages(rl_config(tmp_path, auxiliary=[PTX]), tmp_path / "out")
    row = metrics(tmp_path / "out" / "ppo")[-1]
    names = """objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward
        objective/scores policy/approxkl_avg policy/clipfrac_avg policy/entropy_avg
        loss/policy_avg loss/value_avg val/clipfrac_avg val/ratio val/ratio_var
        val/num_eos_tokens lr episode loss/ptx val/explained_variance"""
    assert set(names.split()) <= set(row)
    assert row["objective/rlhf_reward"] == pytest.approx(
        row["objective/scores"] + row["objective/non_score_reward"]
    )
    assert row["objective/non_score_reward"] == pytest.approx(-0.02 * row["objective/kl"], rel=1e-4)
    assert row["episode"] == 16
