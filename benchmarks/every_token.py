"""A plugin that makes the mistake of trap 29: the score is added at every response token."""

from __future__ import annotations

import torch

from fairlead import hookimpl
from fairlead.rollout import Rollout
from fairlead.stages import StageContext


@hookimpl
def shape_rewards(rollout: Rollout, context: StageContext) -> Rollout:
    """Spread each score over its response, undivided."""
    everywhere = torch.where(rollout.response_mask, rollout.scores[:, None], 0.0)
    return rollout.replace(scores=torch.zeros_like(rollout.scores), token_scores=everywhere)
