"""PPO's clipped losses, as plugins over the kernel library."""

from __future__ import annotations

import torch

from fairlead.components import LossTerm, PolicyBatch, ValueBatch
from fairlead_kernels import ppo_policy_loss, ppo_value_loss
from fairlead_plugins.ppo.config import ClippedPolicyConfig, ClippedValueConfig


class ClippedPolicyLoss:
    """``max(-A * ratio, -A * clip(ratio, 1 - eps, 1 + eps))``, summed over response tokens.

    Schulman et al. 2017, equation 7.
    """

    Config = ClippedPolicyConfig

    def __init__(self, config: ClippedPolicyConfig) -> None:
        self.config = config

    def __call__(self, batch: PolicyBatch) -> LossTerm:
        """Return the loss with the metrics people watch."""
        mask = batch.response_mask
        total, weight, sums = ppo_policy_loss(
            batch.logprobs, batch.old_logprobs, batch.advantages, mask, self.config.clip
        )
        entropy = torch.where(mask, batch.entropy, 0.0).sum()
        if self.config.entropy_bonus:
            total = total - self.config.entropy_bonus * entropy
        tokens = float(weight)
        return LossTerm(
            total,
            tokens,
            {
                "loss/policy_avg": (float(total.detach()), tokens),
                "policy/approxkl_avg": (float(sums.approxkl), tokens),
                "policy/clipfrac_avg": (float(sums.clipfrac), tokens),
                "policy/entropy_avg": (float(entropy.detach()), tokens),
                "val/ratio": (float(sums.ratio), tokens),
                "val/ratio_sq": (float(sums.ratio_sq), tokens),
            },
        )


class ClippedValueLoss:
    """``0.5 * max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2)``, summed.

    lm-human-preferences.
    """

    Config = ClippedValueConfig

    def __init__(self, config: ClippedValueConfig) -> None:
        self.config = config

    def __call__(self, batch: ValueBatch) -> LossTerm:
        """Return the loss and the share of tokens where clipping decides."""
        total, weight, sums = ppo_value_loss(
            batch.values, batch.old_values, batch.returns, batch.response_mask, self.config.clip
        )
        tokens = float(weight)
        return LossTerm(
            total,
            tokens,
            {
                "loss/value_avg": (float(total.detach()), tokens),
                "val/clipfrac_avg": (float(sums.clipfrac), tokens),
            },
        )
