"""What a rollout says about the run, under the names other trainers use."""

from __future__ import annotations

import torch

from fairlead.components import Algorithm
from fairlead.rollout import Credit, Rollout


def rollout_metrics(
    rollout: Rollout, credit: Credit, iteration: int, algorithm: Algorithm
) -> dict[str, float]:
    """Return the metrics of one rollout; sums are per sequence, averaged over the batch.

    What an algorithm has no reference or no critic for is left out, not given as a number.
    """
    mask = rollout.response_mask
    kl = torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0).sum(1)
    surprise = torch.where(mask, -rollout.logprobs, 0.0).sum(1)
    score = float(rollout.scores.mean())
    non_score = credit.metrics.get("objective/non_score_reward", 0.0)
    metrics = {
        "episode": float(iteration * len(rollout)),
        "objective/entropy": float(surprise.mean()),
        "objective/scores": score,
        "objective/rlhf_reward": score + non_score,
        "val/num_eos_tokens": float(rollout.ended.sum()),
        "rollout/response_tokens": float(rollout.response_lengths.float().mean()),
        **sampler_drift(rollout),
        **credit.metrics,
    }
    if algorithm.needs_reference:
        metrics["objective/kl"] = float(kl.mean())
        metrics["objective/kl_se"] = float(kl.std() / len(kl) ** 0.5) if len(kl) > 1 else 0.0
    if algorithm.needs_critic:
        values, returns = rollout.values[mask], credit.returns[mask]
        metrics["val/explained_variance"] = explained_variance(values, returns)
    if rollout.kl_full is not None:
        full = torch.where(mask, rollout.kl_full, 0.0).sum(1)
        metrics["objective/kl_full"] = float(full.mean())
    for name, part in rollout.score_parts.items():
        metrics[f"scores/{name}"] = float(part.mean())
    return metrics


def sampler_drift(rollout: Rollout) -> dict[str, float]:
    """Return how the sampler's log-probs differ from those trained with, in nats a token.

    Nothing where the sampler's were taken for them. k3 estimates KL(sampler || policy)
    (Schulman 2020, "Approximating KL divergence").
    """
    if rollout.logprobs is rollout.sampler_logprobs:
        return {}
    ratio = (rollout.logprobs - rollout.sampler_logprobs)[rollout.response_mask]
    drift = ratio.abs()
    rank = max(0, -(-99 * len(drift) // 100) - 1)  # the smallest that 99 % do not exceed
    return {
        "rollout/sampler_drift_mean": float(drift.mean()),
        "rollout/sampler_drift_p99": float(drift.sort().values[rank]),
        "rollout/sampler_drift_max": float(drift.max()),
        "rollout/sampler_k3": float((ratio.expm1() - ratio).mean()),
    }


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    """Return ``1 - Var(R - V) / Var(R)``; 0 where the returns do not vary."""
    spread = float(returns.var(unbiased=False))
    return 1 - float((returns - values).var(unbiased=False)) / spread if spread > 0 else 0.0
