"""Scores from a reward, and what plugins make of them: checked before anything trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fairlead.components import Reward, RewardBatch, Scores
from fairlead.config import Spec, model_references
from fairlead.errors import RewardError
from fairlead.records import Prompt

if TYPE_CHECKING:
    from fairlead.rollout import Rollout
    from fairlead.stages import StageContext


def check_reward(spec: Spec, context: StageContext) -> None:
    """Check a reward as far as that goes without its weights, which a dry run has not.

    The models that it names are looked for, and its class method ``preview(config, context)`` is
    called, where it has one.

    Raises:
        ConfigError: When a model is not there, or the reward's own check says so.
    """
    for reference in model_references(spec.dump()):
        context.model_config(reference)
    preview = getattr(spec.factory, "preview", None)
    if preview is not None:
        preview(spec.config, context)


def score(reward: Reward, batch: RewardBatch) -> Scores:
    """Score a batch.

    Raises:
        RewardError: When the scores are not one finite number for each response.
    """
    scored = reward.score(batch)
    if scored.total.shape != (len(batch.tokens),):
        raise RewardError(
            f"the reward returned scores of shape {list(scored.total.shape)} for "
            f"{len(batch.tokens)} responses; it must return one for each."
        )
    _check_finite(scored.total, batch.prompts, "the reward returned")
    return scored


def shape_rewards(rollout: Rollout, context: StageContext) -> Rollout:
    """Let the plugins' ``shape_rewards`` hooks change a rollout's scores, one after the other.

    Raises:
        RewardError: When a score is not finite afterwards.
    """
    shaped: Rollout = context.plugins.chain("shape_rewards", rollout, "rollout", context=context)
    _check_finite(shaped.scores, shaped.prompts, "a shape_rewards hook left")
    if shaped.token_scores is not None:
        each = shaped.token_scores.masked_fill(~shaped.response_mask, 0.0).sum(1)
        _check_finite(each, shaped.prompts, "a shape_rewards hook left token scores with sum")
    return shaped


def _check_finite(scores: Tensor, prompts: Sequence[Prompt], what: str) -> None:
    wrong = (~scores.isfinite()).nonzero().flatten().tolist()
    if wrong:
        raise RewardError(
            f"{what} {float(scores[wrong[0]])} where a finite number is needed, for "
            f"{len(wrong)} of {len(scores)} responses; the first prompt is "
            f"{prompts[wrong[0]].prompt_text[:200]!r}. Nothing was trained on it; mend the reward."
        )
