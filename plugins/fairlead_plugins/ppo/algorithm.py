"""PPO's credit assignment: KL-penalised rewards, GAE, whitening."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fairlead.rollout import Credit, Rollout
from fairlead_kernels import gae, kl_gae_whiten, kl_rewards, whiten
from fairlead_plugins.ppo.config import PpoConfig


class Ppo:
    """Proximal policy optimisation as InstructGPT uses it (paper, section 3.5, equation 2)."""

    Config = PpoConfig
    needs_critic = True
    needs_reference = True
    samples_per_prompt = 1
    default_policy_loss = "clipped"
    default_value_loss = "clipped"

    def __init__(self, config: PpoConfig) -> None:
        self.config = config
        self.beta = config.kl_coefficient
        self.needs_full_kl = config.kl_estimator == "full"

    def assign_credit(self, rollout: Rollout) -> Credit:
        """Return rewards, advantages and returns; then adapt beta for the next batch."""
        cfg, mask = self.config, rollout.response_mask
        scores = rollout.scores
        if cfg.score_clip is not None:
            scores = scores.clamp(-cfg.score_clip, cfg.score_clip)
        rewards, kl, advantages, returns = self._credit(rollout, scores)
        penalty = torch.where(mask, kl, 0.0).sum(1)
        metrics = {
            "objective/non_score_reward": float(-self.beta * penalty.mean()),
            "objective/kl_coefficient": self.beta,
        }
        self._adapt(rollout)
        return Credit(rewards, advantages, returns, metrics)

    def _credit(self, rollout: Rollout, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rewards, the divergence they hold, advantages and returns."""
        cfg, mask = self.config, rollout.response_mask
        full = cfg.kl_estimator == "full"
        if full and rollout.kl_full is None:
            raise ValueError("kl_estimator=full needs a rollout with kl_full")
        inputs = rollout.logprobs, rollout.ref_logprobs, scores
        estimator = "k1" if full else cfg.kl_estimator
        penalty = estimator, rollout.kl_full if full else None, rollout.token_scores
        if cfg.whiten_advantages == "rollout" and not cfg.whiten_rewards:
            # The three steps below as one operation, which a test holds equal to them.
            gamma, lam = cfg.gamma_discount, cfg.lam
            return kl_gae_whiten(*inputs, rollout.values, mask, self.beta, gamma, lam, *penalty)
        # 1. Per token -beta * KL; the score once, at the last response token.
        rewards, kl = kl_rewards(*inputs, mask, self.beta, *penalty)
        if cfg.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        # 2. GAE with V = 0 after the last response token.
        advantages, returns = gae(rewards, rollout.values, mask, cfg.gamma_discount, cfg.lam)
        # 3. Whitening, over the whole rollout; the returns keep the advantages as they were.
        if cfg.whiten_advantages == "rollout":
            advantages = whiten(advantages, mask)
        return rewards, kl, advantages, returns

    def minibatch_advantages(self, advantages: Tensor, response_mask: Tensor) -> Tensor:
        """Whiten by minibatch, where that is asked for (fidelity item 19)."""
        if self.config.whiten_advantages == "minibatch":
            return whiten(advantages, response_mask)
        return advantages

    def _adapt(self, rollout: Rollout) -> None:
        """Adapt beta by the sequence KL, k1 in nats whatever the penalty (fidelity item 17)."""
        adaptive = self.config.adaptive_kl
        if adaptive is None:
            return
        logratio = rollout.logprobs - rollout.ref_logprobs
        kl = float(torch.where(rollout.response_mask, logratio, 0.0).sum(1).mean())
        error = min(max(kl / adaptive.target - 1, -0.2), 0.2)
        self.beta *= 1 + len(rollout) / adaptive.horizon * error

    def state(self) -> dict[str, float]:
        """Return beta."""
        return {"beta": self.beta}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up beta."""
        self.beta = float(state["beta"])
