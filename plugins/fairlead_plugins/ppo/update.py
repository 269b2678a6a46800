"""The optimizer steps of one rollout iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.components import (
    Algorithm,
    AuxiliaryLoss,
    LossTerm,
    PolicyBatch,
    PolicyLoss,
    ValueBatch,
    ValueLoss,
)
from fairlead.data import device_microbatches
from fairlead.errors import LogprobError
from fairlead.metrics import Sums
from fairlead.models import target_logprobs
from fairlead.optim import Updater, WeightAverage, check_finite
from fairlead.ragged import takes_ragged
from fairlead.rollout import Credit, Rollout, RolloutSettings
from fairlead.scalar import ScalarModel
from fairlead.scorer import scatter, values_before
from fairlead.strategy import Strategy
from fairlead_plugins.ppo.config import PpoStageConfig


@dataclass(frozen=True)
class Learner:
    """What learns from rollouts.

    Attributes:
        policy: The policy; in evaluation mode, so that no forward has dropout.
        value: The value model, or None.
        policy_updater: The policy's optimizer.
        value_updater: The value model's, or None.
        algorithm: Where credit comes from.
        policy_loss: The policy's loss.
        value_loss: The value model's, or None.
        auxiliary: Further losses on the policy.
        average: The average of the policy's weights, or None.
        strategy: Where the models are.
        config: The stage's settings.
    """

    policy: Any
    value: ScalarModel | None
    policy_updater: Updater
    value_updater: Updater | None
    algorithm: Algorithm
    policy_loss: PolicyLoss
    value_loss: ValueLoss | None
    auxiliary: Sequence[AuxiliaryLoss]
    average: WeightAverage | None
    strategy: Strategy
    config: PpoStageConfig

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The policy's, and the value model's where there is one."""
        updaters = [self.policy_updater, self.value_updater]
        return [updater.optimizer for updater in updaters if updater is not None]


def update(
    learner: Learner, rollout: Rollout, credit: Credit, iteration: int, seed: int
) -> dict[str, float]:
    """Train policy and value model on one rollout; returns metrics.

    Args:
        learner: What learns.
        rollout: The rollout.
        credit: What the algorithm made of it.
        iteration: Counted from 1; decides the learning rate.
        seed: Of the random split into minibatches.
    """
    cfg = learner.config
    sums = Sums()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(cfg.epochs):
        order = torch.randperm(len(rollout), generator=generator)
        for rows in order.split(cfg.minibatch_size):
            # 1. Policy and value losses, into the gradient buffers.
            tokens = _accumulate(learner, rollout, credit, rows, sums, iteration)
            if not first:
                first = _first_minibatch(cfg.rollout, sums.means())
            # 2. Auxiliary losses (ptx), into the same buffers (fidelity item 24).
            for term in learner.auxiliary:
                sums.add_all(term.backward(learner.policy, len(rows), tokens))
            # 3. One optimizer step of each model; then the average.
            if learner.value_updater:  # nothing is stepped when either cannot be
                learner.value_updater.check(iteration)
            last = learner.policy_updater.step(iteration, cfg.iterations)
            if learner.value_updater:
                step = learner.value_updater.step(iteration, cfg.iterations)
                last |= {f"value/{name}": number for name, number in step.items()}
            if learner.average and cfg.weight_average and cfg.weight_average.every == "step":
                learner.average.update()
    if learner.average and cfg.weight_average and cfg.weight_average.every == "iteration":
        learner.average.update()
    means = sums.means()
    means["val/ratio_var"] = means.pop("val/ratio_sq", 1.0) - means.get("val/ratio", 1.0) ** 2
    return {**means, **first, **last}


def _first_minibatch(settings: RolloutSettings, means: dict[str, float]) -> dict[str, float]:
    """Return what the first minibatch says of the old log-probs, before any step.

    Raises:
        LogprobError: When the rollout's were taken for them and are too far off.
    """
    gap = means["val/logprob_gap"]
    if settings.reuse_rollout_logprobs and not gap <= settings.reuse_tolerance:
        raise LogprobError(
            f"reuse_rollout_logprobs: log-probs of the rollout and of the training pass differ by "
            f"{gap:.4g} nats a token on average, and {settings.reuse_tolerance} are allowed "
            "(reuse_tolerance). No step was taken with them. Set reuse_rollout_logprobs=false, or "
            "find out why: a backend with other weights, another precision or another temperature."
        )
    return {"val/ratio_first": means.get("val/ratio", 1.0), "val/logprob_gap_first": gap}


def _accumulate(
    learner: Learner,
    rollout: Rollout,
    credit: Credit,
    rows: Tensor,
    sums: Sums,
    iteration: int,
) -> int:
    """Run one minibatch backwards, microbatch by microbatch; returns its response tokens.

    Every microbatch is divided by the weight of the whole minibatch, so the gradient does
    not depend on how it is cut (fidelity item 22).
    """
    cfg = learner.config
    rows = rows.to(rollout.tokens.device)
    mask = rollout.response_mask[rows]
    advantages = learner.algorithm.minibatch_advantages(credit.advantages[rows], mask)
    tokens = learner.strategy.sum(int(mask.sum()))
    sequences = learner.strategy.sum(len(rows))
    divisor = tokens if cfg.loss_normalisation == "token_mean" else sequences
    lengths = (rollout.prompt_lengths + rollout.response_lengths)[rows]
    budget, ragged = cfg.rollout.token_budget, _takes_ragged(learner, int(lengths.max()))
    for group in device_microbatches(lengths.tolist(), budget, rows.device, ragged):
        inner = torch.tensor(group, device=rows.device)
        micro = _Micro(rollout, credit, rows[inner], advantages[inner])
        term, gap = _policy_term(learner, micro)
        sums.add("val/logprob_gap", float(gap.sum()), gap.numel())
        loss = float(term.total.detach())
        check_finite(loss, "the policy loss", iteration)
        (term.total / divisor).backward()
        sums.add_all(term.metrics)
        if learner.value is not None and learner.value_loss is not None:
            term = _value_term(learner, learner.value, learner.value_loss, micro)
            check_finite(float(term.total.detach()), "the value loss", iteration)
            (cfg.value_coefficient * term.total / divisor).backward()
            sums.add_all(term.metrics)
    return int(tokens)


def _takes_ragged(learner: Learner, longest: int) -> bool:
    models = [learner.policy, *([learner.value.model] if learner.value else [])]
    return all(takes_ragged(model, longest) for model in models)


@dataclass(frozen=True)
class _Micro:
    """Some rows of a rollout, cut to the longest of them."""

    rollout: Rollout
    credit: Credit
    rows: Tensor
    advantages: Tensor

    @property
    def lengths(self) -> Tensor:
        return (self.rollout.prompt_lengths + self.rollout.response_lengths)[self.rows]

    @property
    def tokens(self) -> Tensor:
        return self.rollout.tokens[self.rows, : int(self.lengths.max())]

    @property
    def targets(self) -> Tensor:
        return self.rollout.targets[self.rows, : self.tokens.shape[1]]

    @property
    def width(self) -> int:
        return int(self.rollout.response_lengths[self.rows].max())

    @property
    def mask(self) -> Tensor:
        return self.rollout.response_mask[self.rows, : self.width]

    def cut(self, values: Tensor) -> Tensor:
        """Return these rows of a ``[B, T]`` tensor."""
        return values[self.rows, : self.width]


def _policy_term(learner: Learner, micro: _Micro) -> tuple[LossTerm, Tensor]:
    """Return the loss, and how far each token's log-prob is from the old one."""
    with learner.strategy.autocast():
        logprobs, entropy = target_logprobs(
            learner.policy,
            micro.tokens,
            micro.targets,
            learner.config.rollout.temperature,
            lengths=micro.lengths,
        )
    old_logprobs = micro.cut(micro.rollout.logprobs)
    term = learner.policy_loss(
        PolicyBatch(
            logprobs=scatter(logprobs, micro.mask),
            entropy=scatter(entropy, micro.mask),
            old_logprobs=old_logprobs,
            ref_logprobs=micro.cut(micro.rollout.ref_logprobs),
            advantages=micro.advantages[:, : micro.width],
            response_mask=micro.mask,
        )
    )
    return term, (logprobs.detach() - old_logprobs[micro.mask]).abs()


def _value_term(learner: Learner, value: ScalarModel, loss: ValueLoss, micro: _Micro) -> LossTerm:
    with learner.strategy.autocast():
        values = values_before(value, micro.tokens, micro.targets, micro.lengths)
    return loss(
        ValueBatch(
            values=scatter(values, micro.mask),
            old_values=micro.cut(micro.rollout.values),
            returns=micro.cut(micro.credit.returns),
            response_mask=micro.mask,
        )
    )
