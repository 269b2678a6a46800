"""One rollout and its update with models that stand still, for tests of the update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rl import crew
from torch import Tensor, nn

from fairlead.rollout import Rollout, collect
from fairlead_plugins.ppo.assemble import Crew
from fairlead_plugins.ppo.update import update


class Recorder:
    """Stands in for an `Updater`: keeps the gradients of each step instead of using them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: list[dict[str, Tensor]] = []

    def check(self, step: int) -> float:
        return 0.0

    def step(self, step: int, total: int) -> dict[str, float]:
        self.steps.append(
            {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        )
        self.model.zero_grad(set_to_none=True)
        return {}


def collected(made: Crew, cfg: Any, seed: int = 5, iteration: int = 1) -> Rollout:
    return collect(
        made.actors,
        made.prompts[: cfg.batch_size],
        cfg.rollout,
        seed=seed,
        iteration=iteration,
        policy_version=0,
    )


def one_iteration(root: Path, **changes: Any) -> tuple[Recorder, Recorder, dict[str, float], Crew]:
    """Collect and update once, with models that stand still; returns what would have happened."""
    made, cfg, _ = crew(root, **changes)
    assert made.learner.value is not None
    policy, value = Recorder(made.learner.policy), Recorder(made.learner.value)
    learner = replace(made.learner, policy_updater=policy, value_updater=value)  # type: ignore[arg-type]
    rollout = collected(made, cfg)
    found = update(learner, rollout, learner.algorithm.assign_credit(rollout), 1, seed=2)
    return policy, value, found, made
