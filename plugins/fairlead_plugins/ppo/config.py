"""Settings of the RL stage, of PPO and of its losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairlead.config import (
    AlgorithmSpec,
    AuxiliaryLossSpec,
    Config,
    DataSourceSpec,
    EvaluatorSpec,
    OptimizerSpec,
    PolicyLossSpec,
    RewardSpec,
    ValueLossSpec,
    named,
)
from fairlead.optim import LearningRate
from fairlead.rollout import RolloutSettings


class AdaptiveKl(Config):
    """An adaptive KL coefficient: ``beta *= 1 + gain * clip(KL/target - 1, -0.2, 0.2)``.

    Attributes:
        target: KL a sequence to steer towards, in nats (lm-human-preferences: 6).
        horizon: The gain is the episodes of a batch divided by this (LHP: 10,000). For
            Ziegler et al. 2019's 0.1 an iteration give 10 times the batch.
    """

    target: float = Field(default=6.0, gt=0)
    horizon: float = Field(default=10_000.0, gt=0)


class PpoConfig(Config):
    """Settings of the PPO algorithm: how credit is assigned.

    Attributes:
        kl_coefficient: beta (paper: 0.02).
        kl_estimator: ``k1`` log-ratio, ``k2``, ``k3``, or ``full``: over the vocabulary.
        adaptive_kl: Adapt beta; None keeps it fixed.
        gamma_discount: Discount (paper: none, so 1).
        lam: lambda of GAE (lm-human-preferences: 0.95).
        whiten_advantages: Over the tokens of the whole ``rollout``, of each ``minibatch``
            (LHP), or ``off``.
        whiten_rewards: Whiten KL and score together, keeping the mean (LHP did).
        score_clip: Clip scores to this absolute value; None: off.
    """

    kl_coefficient: float = Field(default=0.02, ge=0)
    kl_estimator: Literal["k1", "k2", "k3", "full"] = "k1"
    adaptive_kl: AdaptiveKl | None = None
    gamma_discount: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    whiten_advantages: Literal["rollout", "minibatch", "off"] = "rollout"
    whiten_rewards: bool = False
    score_clip: float | None = Field(default=None, gt=0)


class ClippedPolicyConfig(Config):
    """Settings of the clipped policy loss.

    Attributes:
        clip: epsilon (paper: 0.2).
        entropy_bonus: Coefficient of an entropy bonus; the paper has none.
    """

    clip: float = Field(default=0.2, gt=0)
    entropy_bonus: float = Field(default=0.0, ge=0)


class ClippedValueConfig(Config):
    """Settings of the clipped value loss.

    Attributes:
        clip: epsilon_v (lm-human-preferences: 0.2); None: not clipped.
    """

    clip: float | None = Field(default=0.2, gt=0)


class WeightAverageConfig(Config):
    """Settings of the average of the policy's weights.

    Attributes:
        decay: Paper: 0.992.
        every: One update each optimizer ``step`` or each ``iteration``; the paper does not
            say which.
    """

    decay: float = Field(default=0.992, gt=0, lt=1)
    every: Literal["step", "iteration"] = "step"


class PolicyRate(LearningRate):
    """The policy's learning rate: constant, after 10 iterations of warm-up from a tenth.

    The paper does not publish the peak; it swept 2.55e-6 to 2.55e-5, and above 8.05e-6
    runs without the pretraining mix diverged.
    """

    peak: float = Field(default=8e-6, gt=0)
    shape: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(default=10, ge=0)


class ValueRate(PolicyRate):
    """The value model's learning rate: the paper's 9e-6, on the policy's schedule."""

    peak: float = Field(default=9e-6, gt=0)


class PpoStageConfig(Config):
    """Settings of the RL stage. Defaults are the paper's where it has one.

    Attributes:
        policy: Where the policy starts: ``stage:NAME``, a directory or a hub name.
        reference: The KL reference; None: the policy's start.
        value: Where the value model starts: a reward model (paper). None where the
            algorithm needs none.
        reward: What scores responses.
        prompts: Where prompts come from; any richer record gives its prompt.
        algorithm: How credit is assigned.
        policy_loss: None: the algorithm's default.
        value_loss: None: the algorithm's default.
        auxiliary: Further losses; ``ptx`` makes PPO into PPO-ptx.
        rollout: How rollouts are made.
        iterations: Rollouts in all (paper: 256,000 episodes, 500 of 512).
        batch_size: Prompts a rollout (paper: 512 episodes).
        minibatch_size: Episodes an optimizer step, a random split (paper: 64).
        epochs: Passes over a rollout (paper: one).
        loss_normalisation: ``token_mean`` over the minibatch, or ``sequence_sum``: token
            sums averaged over sequences, the objective read literally.
        lr: The policy's learning rate.
        value_lr: The value model's (paper: 9e-6).
        optimizer: The policy's optimizer.
        value_optimizer: The value model's.
        value_coefficient: Of the value loss (lm-human-preferences: 0.1).
        clip: Largest gradient norm of each model, or None.
        weight_average: The average saved under ``ema/``; None: none is kept.
        evaluators: Measurements, taken before, while and after.
        evaluate_every: Iterations between them.
        checkpoint_every: Iterations between checkpoints; 0: only when stopped.
    """

    policy: str
    reference: str | None = None
    value: str | None = None
    reward: RewardSpec
    prompts: DataSourceSpec
    algorithm: AlgorithmSpec = named("ppo")
    policy_loss: PolicyLossSpec | None = None
    value_loss: ValueLossSpec | None = None
    auxiliary: list[AuxiliaryLossSpec] = []
    rollout: RolloutSettings = Field(default_factory=dict)  # type: ignore[assignment]
    iterations: int = Field(default=500, ge=1)
    batch_size: int = Field(default=512, ge=1)
    minibatch_size: int = Field(default=64, ge=1)
    epochs: int = Field(default=1, ge=1)
    loss_normalisation: Literal["token_mean", "sequence_sum"] = "token_mean"
    lr: PolicyRate = PolicyRate()
    value_lr: ValueRate = ValueRate()
    optimizer: OptimizerSpec = named("adamw")
    value_optimizer: OptimizerSpec = named("adamw")
    value_coefficient: float = Field(default=0.1, gt=0)
    clip: float | None = Field(default=None, gt=0)
    weight_average: WeightAverageConfig | None = WeightAverageConfig()
    evaluators: list[EvaluatorSpec] = []
    evaluate_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=10, ge=0)
