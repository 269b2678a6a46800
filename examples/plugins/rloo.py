"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740) as a one-file plugin.

Each prompt is answered k times, and the baseline of a response is the mean of the other k - 1:
no value model is needed. Use it with::

    fairlead ppo --config run.yaml --plugin examples/plugins/rloo.py ppo.algorithm=rloo
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from fairlead import hookimpl
from fairlead.config import Config
from fairlead.registry import Register
from fairlead.rollout import Credit, Rollout
from fairlead_kernels import kl_rewards


class RlooConfig(Config):
    """k samples of each prompt, and beta of the KL that is part of the reward."""

    samples_per_prompt: int = Field(default=4, ge=2)
    kl_coefficient: float = Field(default=0.02, ge=0)


class Rloo:
    """A response's advantage is its return minus the mean return of the others to its prompt."""

    Config = RlooConfig
    needs_critic = False
    needs_reference = True
    needs_full_kl = False
    default_policy_loss = "clipped"  # at ratio 1, the gradient of -A log pi
    default_value_loss = "clipped"  # never made: there is no critic

    def __init__(self, config: RlooConfig) -> None:
        self.config = config
        self.samples_per_prompt = config.samples_per_prompt

    def assign_credit(self, rollout: Rollout) -> Credit:
        """Give every token of a response the same advantage."""
        mask, beta, k = rollout.response_mask, self.config.kl_coefficient, self.samples_per_prompt
        rewards, kl = kl_rewards(
            rollout.logprobs,
            rollout.ref_logprobs,
            rollout.scores,
            mask,
            beta,
            token_scores=rollout.token_scores,
        )
        # The samples of a prompt stand side by side in a rollout.
        returns = rewards.sum(1).view(-1, k)
        others = (returns.sum(1, keepdim=True) - returns) / (k - 1)
        advantages = torch.where(mask, (returns - others).view(-1, 1), 0.0)
        penalty = {"objective/non_score_reward": float(-beta * kl.sum(1).mean())}
        return Credit(rewards, advantages, torch.where(mask, returns.view(-1, 1), 0.0), penalty)

    def minibatch_advantages(self, advantages: Tensor, response_mask: Tensor) -> Tensor:
        """Leave them as they are."""
        return advantages

    def state(self) -> dict[str, float]:
        """Return nothing: there is nothing to resume."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up nothing."""


@hookimpl
def register_algorithms(register: Register) -> None:
    """Register ``rloo``."""
    register("rloo", Rloo)
