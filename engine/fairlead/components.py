"""The protocols a plugin's components follow.

Each is a class with a nested ``Config`` (a `fairlead.config.Config`) that is called with
its settings and what the protocol's ``__init__`` lists. Composition only: nothing here is
a base class to inherit from, and a component that has the methods is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from fairlead.records import Prompt, Record

if TYPE_CHECKING:
    from fairlead.rollout import Credit, Rollout


class DataSource(Protocol):
    """``Source(config)``. Reads records; everything that can be wrong is found in `load`."""

    def load(self) -> Sequence[Record]:
        """Return all records, readable by index in any order.

        Raises:
            DataError: On anything that cannot be used, with file and line.
        """
        ...


@dataclass(frozen=True)
class RewardBatch:
    """What a reward is asked to score.

    Attributes:
        tokens: ``[B, S]`` int64; prompt, response, padding.
        prompt_lengths: ``[B]`` int64.
        response_lengths: ``[B]`` int64; the stop token is part of the response.
        prompts: The B prompt records, with their metadata.
        responses: The B responses decoded, without special tokens.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    prompts: Sequence[Prompt]
    responses: Sequence[str]


@dataclass(frozen=True)
class Scores:
    """What a reward returns.

    Attributes:
        total: ``[B]`` float32, one finite score per response.
        parts: Scores by name, ``[B]`` each, for the log; may be empty.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Reward(Protocol):
    """``Reward(config, context, tokenizer)``, the tokenizer being the policy's.

    A *token* reward reads ``tokens`` and must share the policy's vocabulary, by ids; it
    checks that when it is made. A *text* reward reads ``prompts`` and ``responses``.

    A class method ``preview(config, context)``, where there is one, is called by a dry run, to
    check what can be checked without weights.
    """

    def score(self, batch: RewardBatch) -> Scores:
        """Score each response.

        Raises:
            RewardError: When a score is missing or not finite, with the prompt at fault.
        """
        ...


class Algorithm(Protocol):
    """``Algorithm(config)``. Turns a rollout into credit; owns no model.

    Attributes:
        needs_critic: Whether rollouts carry values and a value model is trained.
        needs_reference: Whether rollouts carry the reference's log-probs.
        needs_full_kl: Whether rollouts carry the full-vocabulary KL (``kl_full``).
        samples_per_prompt: Responses to each prompt; they stand side by side in a rollout.
        default_policy_loss: Name of a policy loss, unless the configuration names one.
        default_value_loss: Name of a value loss, likewise.
    """

    needs_critic: bool
    needs_reference: bool
    needs_full_kl: bool
    samples_per_prompt: int
    default_policy_loss: str
    default_value_loss: str

    def assign_credit(self, rollout: Rollout) -> Credit:
        """Return rewards, advantages and returns for a whole rollout."""
        ...

    def minibatch_advantages(self, advantages: Tensor, response_mask: Tensor) -> Tensor:
        """Return the advantages a minibatch is trained on; the place to whiten by minibatch."""
        ...

    def state(self) -> dict[str, float]:
        """Return what must survive a resume, such as an adaptive coefficient."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up a state returned by `state`."""
        ...


@dataclass(frozen=True)
class LossTerm:
    """A loss as a sum and what it is to be divided by.

    Attributes:
        total: Scalar float32 with a gradient: the sum over everything that counts.
        weight: How much counts here (tokens, prompts, ...). The caller divides by the
            weight of the whole optimizer batch, so accumulation never skews the mean.
        metrics: Name to (sum, weight), averaged the same way.
    """

    total: Tensor
    weight: float
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicyBatch:
    """What a policy loss sees, ``[B, T]`` float32 each; gradients flow through the first two."""

    logprobs: Tensor
    entropy: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    response_mask: Tensor


@dataclass(frozen=True)
class ValueBatch:
    """What a value loss sees, ``[B, T]`` float32 each; gradients flow through ``values``."""

    values: Tensor
    old_values: Tensor
    returns: Tensor
    response_mask: Tensor


class PolicyLoss(Protocol):
    """``Loss(config)``, registered as ``policy/NAME``; weight: response tokens."""

    def __call__(self, batch: PolicyBatch) -> LossTerm:
        """Return the summed loss of a microbatch."""
        ...


class ValueLoss(Protocol):
    """``Loss(config)``, registered as ``value/NAME``; weight: response tokens."""

    def __call__(self, batch: ValueBatch) -> LossTerm:
        """Return the summed loss of a microbatch."""
        ...


class PreferenceLoss(Protocol):
    """``Loss(config)``, registered as ``preference/NAME``; weight: prompts with a pair."""

    def __call__(self, scores: Sequence[Tensor], ranks: Sequence[Sequence[float]]) -> LossTerm:
        """Score one microbatch of prompts.

        Args:
            scores: For each prompt its K scores, ``[K]`` float32.
            ranks: For each prompt its K ranks; lower is better, equal is a tie.
        """
        ...


class AuxiliaryLoss(Protocol):
    """``Loss(config, context, tokenizer)``, registered as ``auxiliary/NAME``.

    A second objective on the policy with data of its own: its backward runs after the main
    one into the same gradient buffers, before clipping and the optimizer step.
    """

    def backward(
        self, model: nn.Module, examples: int, tokens: int
    ) -> Mapping[str, tuple[float, float]]:
        """Add this loss's gradient for one optimizer step.

        Args:
            model: The policy being trained.
            examples: Episodes or demonstrations in the main batch.
            tokens: Target tokens in the main batch.

        Returns:
            Metrics as (sum, weight), such as ``{"loss/ptx": (310.0, 100)}``; the mean over
            several steps is then one over all that counted in them.
        """
        ...

    def state(self) -> dict[str, float]:
        """Return the integers (and exact floats) that say where its data stands."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up a state returned by `state`."""
        ...


class OptimizerFactory(Protocol):
    """``Factory(config)``; makes a torch optimizer over named parameters."""

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Return an optimizer; each group's ``lr`` is its multiple of the stage's rate."""
        ...


class Evaluator(Protocol):
    """``Evaluator(config, context, tokenizer)``; measures a causal model as it trains.

    One that can say what it found item by item has `MeasuringEvaluator`'s method too. One that
    measures data and no model has the class attribute ``needs_model = False``: the stage
    ``evaluate`` runs it once, with None for the model, and makes it with None for the tokenizer
    where it is given no model at all.
    """

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return metrics, named ``eval/...``; the model's weights and mode are restored."""
        ...


@dataclass(frozen=True)
class Measurement:
    """What an evaluator found, with what it was found from.

    Attributes:
        metrics: Named ``eval/...``, as `Evaluator.evaluate` returns them.
        outcomes: One finite number an item, in an order that does not depend on the model, so
            that two models' outcomes can be paired; may be empty.
        clusters: For each outcome the name of the cluster it belongs to, such as its prompt;
            empty where each outcome stands for itself.
    """

    metrics: Mapping[str, float]
    outcomes: Sequence[float] = ()
    clusters: Sequence[str] = ()


class MeasuringEvaluator(Evaluator, Protocol):
    """An evaluator that hands out its outcomes; an optional part of the protocol."""

    def measure(self, model: nn.Module) -> Measurement:
        """Measure; ``evaluate`` returns ``dict(self.measure(model).metrics)``, or more."""
        ...


class Logger(Protocol):
    """``Logger(config, directory)``, one for each stage."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step."""
        ...

    def close(self) -> None:
        """Flush; called once when the stage ends, whatever its end."""
        ...
