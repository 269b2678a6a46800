"""PPO on a problem whose optimum is known: pi* = pi_ref exp(r / beta) / Z.

A uniform reference over 20 tokens, responses of 8 tokens, a reward that counts one token. The
reward is a sum over tokens, so the optimum draws each of them alone: the counted token with
p e^(1/beta) / (1 - p + p e^(1/beta)), p = 1/20.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rl import SpyBackend, SpyReward, pairs, rollout_settings
from support import metrics, run_stages, save_causal, save_scalar

from fairlead.models import load_causal, save_model
from fairlead.rollout import Actors, collect
from fairlead.strategy import SingleDevice
from fairlead.tokenizers import load_tokenizer
from fairlead_plugins.ppo.algorithm import Ppo
from fairlead_plugins.ppo.config import PpoConfig
from fairlead_plugins.ppo.report import rollout_metrics

pytestmark = pytest.mark.slow

SIZE = {"vocabulary": 20, "num_hidden_layers": 1, "max_position_embeddings": 16}


def write_models(root: Path) -> None:
    """A policy whose untied head is zero, and a value model that begins at zero."""
    save_causal(root / "policy", tie_word_embeddings=False, **SIZE)
    policy = load_causal(str(root / "policy"), SingleDevice("cpu"), trained=True)
    with torch.no_grad():
        policy.lm_head.weight.zero_()  # type: ignore[union-attr, operator]
    save_model(policy, load_tokenizer(str(root / "policy")), root / "policy")
    save_scalar(root / "value", **SIZE)
    (root / "count.py").write_text(
        "def count(prompts, responses, metadata):\n"
        "    return [response.split().count('w7') for response in responses]\n"
    )


def toy(root: Path, beta: float, **changes: Any) -> dict[str, Any]:
    stage = {
        "name": "ppo",
        "policy": str(root / "policy"),
        "value": str(root / "value"),
        "reward": {"name": "function", "function": f"{root / 'count.py'}:count"},
        "prompts": {"name": "inline", "records": [{"prompt": "w0"}]},
        "algorithm": {"name": "ppo", "kl_coefficient": beta},
        "rollout": {"max_new_tokens": 8, "stop_tokens": []},
        "iterations": 50,
        "batch_size": 256,
        "minibatch_size": 64,
        # The rate falls, so that the last iterations stand still at the optimum.
        "lr": {"peak": 1e-2, "shape": "cosine", "final": 0.02, "warmup": 0},
        "value_lr": {"peak": 1e-2, "warmup": 0},
        "value_coefficient": 1.0,
        "weight_average": None,
        "checkpoint_every": 0,
        **changes,
    }
    return {"name": "toy", "heldout": 0.0, "threads": 1, "stages": {"ppo": stage}}


def optimum(beta: float) -> float:
    p, gain = 1 / 20, math.exp(1 / beta)
    return p * gain / (1 - p + p * gain)


def share(run: Path) -> float:
    """Mean share of the counted token over the last fifth of the iterations."""
    rows = metrics(run / "ppo")
    last = rows[-(len(rows) // 5) :]
    return sum(row["objective/scores"] / 8 for row in last) / len(last)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run at beta 1, which two tests look at."""
    root = tmp_path_factory.mktemp("toy")
    write_models(root)
    run_stages(toy(root, 1.0), root / "run")
    return root


def test_ppo_reaches_the_known_optimum_at_beta_1(trained: Path) -> None:
    """Issue 2, 'It must show': share 0.125."""
    assert optimum(1.0) == pytest.approx(0.1252, abs=1e-4)
    assert abs(share(trained / "run") - optimum(1.0)) < 0.01


@pytest.mark.parametrize("beta", [2.0, 50.0])
def test_ppo_reaches_the_known_optimum(tmp_path: Path, beta: float) -> None:
    """Issue 2, 'It must show': shares 0.080 and 0.051."""
    write_models(tmp_path)
    run_stages(toy(tmp_path, beta), tmp_path / "run")
    assert abs(share(tmp_path / "run") - optimum(beta)) < 0.01


def test_ppo_finds_the_reward_when_the_penalty_is_small(tmp_path: Path) -> None:
    """Issue 2, 'It must show': over 90 % at beta 0.02, the paper's."""
    write_models(tmp_path)
    run_stages(toy(tmp_path, 0.02), tmp_path / "run")
    assert share(tmp_path / "run") > 0.9


def test_sampled_kl_agrees_with_the_exact_one(trained: Path) -> None:
    """Issue 2, 'It must show': within 3 standard errors, on the trained policy.

    k1 is the log-ratio of the sampled tokens; the exact KL sums over the vocabulary at each
    of their states. Twice: by the spread of k1, and by that of the paired differences.
    """
    device = SingleDevice("cpu")
    policy = load_causal(str(trained / "run" / "ppo"), device, trained=False)
    reference = load_causal(str(trained / "policy"), device, trained=False)
    tokenizer = load_tokenizer(str(trained / "policy"))
    actors = Actors(policy, reference, None, SpyReward(), SpyBackend(), tokenizer, (), device)
    rollout = collect(
        actors,
        pairs([[0]] * 4096),
        rollout_settings(),
        seed=11,
        iteration=1,
        policy_version=0,
        full_kl=True,
    )
    assert rollout.kl_full is not None
    algorithm = Ppo(PpoConfig())
    found = rollout_metrics(rollout, algorithm.assign_credit(rollout), 1, algorithm)
    assert found["objective/kl_full"] > 0.1
    assert found["objective/kl_se"] < 0.05 * found["objective/kl_full"]
    off = found["objective/kl"] - found["objective/kl_full"]
    assert abs(off) < 3 * found["objective/kl_se"]
    paired = (rollout.logprobs - rollout.ref_logprobs - rollout.kl_full).sum(1)
    assert abs(float(paired.mean())) < 3 * float(paired.std()) / len(paired) ** 0.5
    # The exact KL of the optimum itself: 8 tokens of share q against 1/20.
    q, p = optimum(1.0), 1 / 20
    exact = 8 * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))
    assert found["objective/kl_full"] == pytest.approx(exact, rel=0.25)
