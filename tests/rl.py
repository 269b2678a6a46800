"""Tiny actors, rollouts made by hand and whole RL stages, for tests of reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from support import configure, context, save_causal, save_scalar
from torch import Tensor

from fairlead.components import RewardBatch, Scores
from fairlead.generation import Generated, GenerationRequest
from fairlead.generation.hf import HfBackend
from fairlead.models import load_causal
from fairlead.plugins import Plugins, load_plugins
from fairlead.records import Prompt, Turn
from fairlead.rollout import Actors, Rollout, RolloutSettings
from fairlead.scalar import load_scalar
from fairlead.scorer import length_mask
from fairlead.strategy import SingleDevice
from fairlead.tokenizers import load_tokenizer
from fairlead_plugins.ppo.assemble import Crew, assemble

EOS, PAD = 22, 23
"""Ids of the tiny vocabulary's special tokens; 0..21 are the words w0..w21."""

PROMPTS = ([1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15], [16], [3, 1], [9, 9, 2])


NEW_TOKENS = 10


def request(prompts: Any = PROMPTS, **changes: Any) -> GenerationRequest:
    return GenerationRequest(
        **{
            "prompts": prompts,
            "sequence_ids": range(len(prompts)),
            "max_new_tokens": NEW_TOKENS,
            "stop_token_ids": (),
            "temperature": 0.0,
            "seed": 1,
            "iteration": 1,
            "token_budget": 10_000,
            **changes,
        }
    )


class SpyReward:
    """Keeps what it was asked to score; the score is a function of a response's ids."""

    def __init__(self, function: Callable[[list[int]], float] = lambda ids: float(ids[0])) -> None:
        self.function = function
        self.batches: list[RewardBatch] = []

    def score(self, batch: RewardBatch) -> Scores:
        self.batches.append(batch)
        return Scores(torch.tensor([self.function(ids) for ids in responses_of(batch)]))


class SpyBackend:
    """The hf backend; keeps what it generated."""

    def __init__(self) -> None:
        self.inner = HfBackend(None)  # type: ignore[arg-type]
        self.generated: list[Generated] = []

    def generate(self, model: torch.nn.Module, request: GenerationRequest) -> list[Generated]:
        self.generated = self.inner.generate(model, request)
        return self.generated


def responses_of(batch: Any) -> list[list[int]]:
    """The response ids of a `RewardBatch` or a `Rollout`, row by row."""
    return [
        tokens[prompt : prompt + response].tolist()
        for tokens, prompt, response in zip(
            batch.tokens, batch.prompt_lengths, batch.response_lengths, strict=True
        )
    ]


def tiny_actors(
    root: Path,
    family: str = "gpt2",
    *,
    stop: tuple[int, ...] = (EOS,),
    tokenizer: Any = None,
    **changes: Any,
) -> Actors:
    """Actors over tiny random models: a policy, another reference, a value model, spies."""
    device = SingleDevice("cpu")
    policy = save_causal(root / "policy", family, **changes)
    reference = save_causal(root / "reference", family, seed=7, **changes)
    value = save_scalar(root / "value", family, **changes)
    return Actors(
        policy=load_causal(str(policy), device, trained=True),
        reference=load_causal(str(reference), device, trained=False),
        value=load_scalar(str(value), device, trained=True),
        reward=SpyReward(),
        backend=SpyBackend(),
        tokenizer=tokenizer or load_tokenizer(str(policy)),
        stop_token_ids=stop,
        strategy=device,
    )


def pairs(prompts: Sequence[Sequence[int]] = PROMPTS) -> list[tuple[Prompt, Sequence[int]]]:
    """Prompt records with their ids."""
    return [(Prompt(turns=(Turn("user", " ".join(f"w{i}" for i in ids)),)), ids) for ids in prompts]


def rollout_settings(**changes: Any) -> RolloutSettings:
    """Validated rollout settings, for responses of at most 8 tokens."""
    return RolloutSettings.model_validate(
        {"max_new_tokens": 8, **changes}, context={"registry": load_plugins().registry}
    )


def hand_rollout(
    lengths: Sequence[int],
    scores: Sequence[float],
    *,
    logprobs: Sequence[Sequence[float]] | None = None,
    ref_logprobs: Sequence[Sequence[float]] | None = None,
    values: Sequence[Sequence[float]] | None = None,
    **more: Any,
) -> Rollout:
    """A rollout with prompts of two tokens; what is not given is zero."""
    response_lengths = torch.tensor(lengths)
    mask = length_mask(response_lengths)

    def lay(rows: Sequence[Sequence[float]] | None) -> Tensor:
        laid = torch.zeros(mask.shape)
        for row, numbers in enumerate(rows or ()):
            laid[row, : len(numbers)] = torch.tensor(numbers)
        return laid

    count = len(lengths)
    return Rollout(
        tokens=torch.ones(count, 2 + mask.shape[1], dtype=torch.int64),
        prompt_lengths=torch.full((count,), 2),
        response_lengths=response_lengths,
        response_mask=mask,
        logprobs=lay(logprobs),
        entropy=torch.zeros(mask.shape),
        sampler_logprobs=lay(logprobs),
        ref_logprobs=lay(ref_logprobs),
        values=lay(values),
        scores=torch.tensor(scores),
        ended=torch.ones(count, dtype=torch.bool),
        policy_version=0,
        **more,
    )


def rl_models(root: Path, **changes: Any) -> Path:
    """Write `policy`, `reference` and `value` directories and a reward file under `root`."""
    save_causal(root / "policy", **changes)
    save_causal(root / "reference", seed=7, **changes)
    save_scalar(root / "value", **changes)
    (root / "count.py").write_text(
        "def count(prompts, responses, metadata):\n"
        "    return [response.split().count('w7') for response in responses]\n"
    )
    return root


def rl_config(root: Path, **changes: Any) -> dict[str, Any]:
    """A run of one small PPO stage over what `rl_models` wrote; `changes` are the stage's."""
    records = [{"prompt": " ".join(f"w{i}" for i in ids)} for ids in PROMPTS]
    stage = {
        "name": "ppo",
        "policy": str(root / "policy"),
        "reference": str(root / "reference"),
        "value": str(root / "value"),
        "reward": {"name": "function", "function": f"{root / 'count.py'}:count"},
        "prompts": {"name": "inline", "records": records},
        "rollout": {"max_new_tokens": 6},
        "iterations": 2,
        "batch_size": 8,
        "minibatch_size": 4,
        "lr": {"peak": 1e-2, "warmup": 0},
        "value_lr": {"peak": 1e-2, "warmup": 0},
        "checkpoint_every": 0,
        **changes,
    }
    return {"name": "rl", "heldout": 0.0, "threads": 1, "stages": {"ppo": stage}}


def crew(root: Path, plugins: Plugins | None = None, **changes: Any) -> tuple[Crew, Any, Any]:
    """Assemble a PPO stage without running it; returns crew, stage settings and context."""
    config, plugins = configure(rl_config(root, **changes), plugins=plugins)
    made = context(root / "run", plugins=plugins)
    cfg = config.stages["ppo"].config
    return assemble(cfg, made), cfg, made


PTX = {
    "name": "ptx",
    "source": {"name": "inline", "records": [{"text": "w1 w2 w3 w4 w5 w6 w7 w8 " * 8}]},
    "block_tokens": 8,
    "ratio": 0.5,
    "coefficient": 3.0,
}
"""A pretraining mix of 2 blocks of 8 tokens for each minibatch of 4 episodes."""
