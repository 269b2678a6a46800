"""The rollout: what an RL step is computed from, and how it is collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fairlead.components import Reward, RewardBatch
from fairlead.config import Config, RolloutBackendSpec, named
from fairlead.data import pad
from fairlead.generation import Generated, GenerationRequest, RolloutBackend
from fairlead.phases import Phases
from fairlead.records import Prompt
from fairlead.scalar import ScalarModel
from fairlead.scorer import Scorer, length_mask, response_targets, scatter
from fairlead.scoring import score
from fairlead.strategy import Strategy

REFUSED = ("top_p", "top_k", "min_p", "typical_p")
"""Settings of other trainers that sample from a part of the distribution."""


class Replace(Config):
    """Give every truncated response this score."""

    replace: float


class Subtract(Config):
    """Take this from every truncated response's score."""

    subtract: float = Field(ge=0)


class RolloutSettings(Config):
    """How rollouts are made.

    There is no top-p or top-k: a policy trained on truncated samples with untruncated
    log-probs is trained on another distribution than it draws from (fidelity item 10).

    Attributes:
        backend: Who generates.
        max_prompt_tokens: Prompts longer than this are left out.
        max_new_tokens: Longest response, its stop token included.
        temperature: Divides the logits of policy, old policy and reference alike.
        stop_tokens: Tokens that end a response; None: the tokenizer's end-of-sequence token;
            an empty list: only the length limit.
        stop_strings: Text that ends a response, with the token that completes it.
        truncation: What becomes of the score of a response that the length limit cut:
            ``none`` (it stays), ``{replace: X}`` (lm-human-preferences: -1) or
            ``{subtract: X}`` (TRL).
        token_budget: Most tokens of a forward pass, padding included. A CPU takes 2,048 at most.
        reuse_rollout_logprobs: Take the log-probs that responses were drawn with for the old
            policy's, which saves a forward pass. Another forward pass than training's rounds
            otherwise, so the first ratio is 1 to rounding only.
        reuse_tolerance: With it: the run ends when the mean difference to the training pass, in
            nats a token, is larger in the first minibatch of a rollout.
    """

    backend: RolloutBackendSpec = named("native")
    max_prompt_tokens: int = Field(default=1000, ge=1)
    max_new_tokens: int = Field(default=1000, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    stop_tokens: list[str] | None = None
    stop_strings: list[Annotated[str, Field(min_length=1)]] = []
    truncation: Literal["none"] | Replace | Subtract = "none"
    token_budget: int = Field(default=16384, ge=1)
    reuse_rollout_logprobs: bool = False
    reuse_tolerance: float = Field(default=0.05, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _no_truncated_sampling(cls, data: Any) -> Any:
        given = [key for key in data if key in REFUSED] if isinstance(data, Mapping) else []
        if given:
            raise PydanticCustomError(
                "truncated_sampling",
                "{keys}: refused, since the log-probs of policy and reference are those of the "
                "whole distribution, and samples of a part of it would train the policy on "
                "another one than it draws from. Leave it out, or use temperature, which divides "
                "the logits of both",
                {"keys": " and ".join(given)},
            )
        return data


@dataclass(frozen=True)
class Rollout:
    """B sequences, each a prompt, a response and padding on the right.

    B is the number of prompts times the samples of each, side by side. T is the longest
    response. Log-probs, values and masks are aligned with the response: column t belongs
    to response token t, and ``values[:, t]`` is the value of the state before it.

    Attributes:
        tokens: ``[B, S]`` int64.
        prompt_lengths: ``[B]`` int64, tokens.
        response_lengths: ``[B]`` int64, tokens, the stop token included.
        response_mask: ``[B, T]`` bool, True at response tokens.
        logprobs: ``[B, T]`` float32, of the policy that is about to be trained, nats.
        entropy: ``[B, T]`` float32, of its next-token distribution, nats; zeros where log-probs
            were reused and the backend does not say.
        sampler_logprobs: ``[B, T]`` float32, as the rollout backend drew them.
        ref_logprobs: ``[B, T]`` float32 of the reference, or zeros where none is needed.
        values: ``[B, T]`` float32 of the value model, or zeros where none is needed.
        scores: ``[B]`` float32, one for each response.
        ended: ``[B]`` bool, True where a stop token ended the response.
        policy_version: Rollout iterations the generating policy had been trained for.
        samples_per_prompt: Responses to each prompt.
        prompts: The prompt records, B of them.
        responses: The responses as text, B of them.
        score_parts: Scores by the name of the reward, ``[B]`` each.
        token_scores: ``[B, T]`` float32 process rewards, or None.
        kl_full: ``[B, T]`` float32 KL over the whole vocabulary, or None.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    response_mask: Tensor
    logprobs: Tensor
    entropy: Tensor
    sampler_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor
    ended: Tensor
    policy_version: int
    samples_per_prompt: int = 1
    prompts: Sequence[Prompt] = ()
    responses: Sequence[str] = ()
    score_parts: dict[str, Tensor] = field(default_factory=dict)
    token_scores: Tensor | None = None
    kl_full: Tensor | None = None

    def replace(self, **changes: Any) -> Rollout:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> Tensor:
        """``[B, S]`` bool, True at response tokens, aligned with ``tokens``."""
        return response_targets(self.tokens, self.prompt_lengths, self.response_lengths)

    @property
    def lengths(self) -> list[int]:
        """Prompt and response tokens of each sequence."""
        total: list[int] = (self.prompt_lengths + self.response_lengths).tolist()
        return total


@dataclass(frozen=True)
class Credit:
    """What an algorithm makes of a rollout.

    Attributes:
        rewards: ``[B, T]`` float32, per token.
        advantages: ``[B, T]`` float32, zero outside the response.
        returns: ``[B, T]`` float32, what the values are trained towards.
        metrics: For the log.
    """

    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Actors:
    """The models and services a rollout is collected with.

    Attributes:
        policy: The model being trained; in evaluation mode (fidelity item 12).
        reference: The KL reference, or None.
        value: The value model, or None.
        reward: What scores responses.
        backend: What generates them.
        tokenizer: The policy's.
        stop_token_ids: What ends a response.
        strategy: Where the models are.
    """

    policy: nn.Module
    reference: nn.Module | None
    value: ScalarModel | None
    reward: Reward
    backend: RolloutBackend
    tokenizer: Any
    stop_token_ids: tuple[int, ...]
    strategy: Strategy


@torch.no_grad()
def collect(
    actors: Actors,
    prompts: Sequence[tuple[Prompt, Sequence[int]]],
    settings: RolloutSettings,
    *,
    seed: int,
    iteration: int,
    policy_version: int,
    samples_per_prompt: int = 1,
    full_kl: bool = False,
    phases: Phases | None = None,
) -> Rollout:
    """Collect one rollout: generate, log-probs, reference, values, scores.

    Args:
        actors: Who does it.
        prompts: Records with their ids.
        settings: Lengths, temperature and the rule for truncated responses.
        seed: Keys the sampler, with ``iteration``.
        iteration: The rollout iteration.
        policy_version: Kept with the rollout.
        samples_per_prompt: Responses to each prompt.
        full_kl: Also form the full-vocabulary KL to the reference.
        phases: Told what takes how long.
    """
    phases = phases or Phases(actors.strategy.device)
    repeated = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    # 1. Generate.
    ids = [prompt for _, prompt in repeated]
    generated = phases.run("generate", _generate, actors, ids, settings, seed, iteration)
    drawn = _drawn(actors, repeated, generated, policy_version, samples_per_prompt)
    scorer = _scorer(drawn, settings, actors.strategy)
    # 2. Log-probs of the policy, by the forward pass it is trained with, or as they were drawn.
    logprobs, entropy = drawn.logprobs, drawn.entropy
    if not settings.reuse_rollout_logprobs:
        logprobs, entropy = phases.run("logprobs", scorer.logprobs, actors.policy)
    # 3. Log-probs of the reference, at the same temperature.
    ref_logprobs, kl_full, values = drawn.ref_logprobs, None, drawn.values
    if actors.reference:
        ref_logprobs, _ = phases.run("reference", scorer.logprobs, actors.reference)
    if full_kl:
        kl_full = phases.run("kl_full", scorer.kl_full, actors.policy, actors.reference)
    # 4. Values of the state before each response token.
    if actors.value:
        values = phases.run("values", scorer.values, actors.value)
    # 5. Scores of the sampled ids.
    scored = phases.run("reward", score, actors.reward, _to_score(drawn))
    return drawn.replace(
        logprobs=logprobs,
        entropy=entropy,
        ref_logprobs=ref_logprobs,
        kl_full=kl_full,
        values=values,
        scores=truncation_rule(scored.total.to(drawn.tokens.device), drawn.ended, settings),
        score_parts={name: part.to(drawn.tokens.device) for name, part in scored.parts.items()},
    )


def _generate(
    actors: Actors,
    prompts: Sequence[Sequence[int]],
    settings: RolloutSettings,
    seed: int,
    iteration: int,
) -> list[Generated]:
    request = GenerationRequest(
        prompts=prompts,
        sequence_ids=range(len(prompts)),
        max_new_tokens=settings.max_new_tokens,
        stop_token_ids=actors.stop_token_ids,
        temperature=settings.temperature,
        seed=seed,
        iteration=iteration,
        token_budget=settings.token_budget,
        stop_strings=tuple(settings.stop_strings),
        decode=actors.tokenizer.decode,
    )
    with actors.strategy.autocast():
        return actors.backend.generate(actors.policy, request)


def _drawn(
    actors: Actors,
    prompts: Sequence[tuple[Prompt, Sequence[int]]],
    generated: Sequence[Generated],
    policy_version: int,
    samples_per_prompt: int,
) -> Rollout:
    """Lay out what was generated, contiguous and padded on the right; the rest is zero."""
    device = actors.strategy.device
    answers = [g.tokens.tolist() for g in generated]
    tokens = pad([[*ids, *answer] for (_, ids), answer in zip(prompts, answers, strict=True)])
    response_lengths = torch.tensor([len(answer) for answer in answers], device=device)
    mask = length_mask(response_lengths)
    sampled = _aligned([g.logprobs for g in generated], mask)
    nothing = torch.zeros_like(sampled)
    return Rollout(
        tokens=tokens.to(device),
        prompt_lengths=torch.tensor([len(ids) for _, ids in prompts], device=device),
        response_lengths=response_lengths,
        response_mask=mask,
        logprobs=sampled,
        entropy=_aligned([_entropy(g) for g in generated], mask),
        sampler_logprobs=sampled,
        ref_logprobs=nothing,
        values=nothing,
        scores=torch.zeros(len(tokens), device=device),
        ended=torch.tensor([g.finish == "stop" for g in generated], device=device),
        policy_version=policy_version,
        samples_per_prompt=samples_per_prompt,
        prompts=[record for record, _ in prompts],
        responses=actors.tokenizer.batch_decode(answers, skip_special_tokens=True),
    )


def _scorer(drawn: Rollout, settings: RolloutSettings, strategy: Strategy) -> Scorer:
    return Scorer(
        tokens=drawn.tokens,
        prompt_lengths=drawn.prompt_lengths,
        response_lengths=drawn.response_lengths,
        mask=drawn.response_mask,
        temperature=settings.temperature,
        token_budget=settings.token_budget,
        strategy=strategy,
    )


def _to_score(drawn: Rollout) -> RewardBatch:
    return RewardBatch(
        drawn.tokens,
        drawn.prompt_lengths,
        drawn.response_lengths,
        drawn.prompts,
        drawn.responses,
    )


def truncation_rule(scores: Tensor, ended: Tensor, settings: RolloutSettings) -> Tensor:
    """Apply the rule for responses that the length limit cut (fidelity item 11)."""
    match settings.truncation:
        case Replace(replace=value):
            return torch.where(ended, scores, value)
        case Subtract(subtract=penalty):
            return torch.where(ended, scores, scores - penalty)
        case _:
            return scores


def _entropy(generated: Generated) -> Tensor:
    return torch.zeros_like(generated.logprobs) if generated.entropy is None else generated.entropy


def _aligned(rows: Sequence[Tensor], mask: Tensor) -> Tensor:
    flat = torch.cat(list(rows)) if rows else torch.zeros(0)
    return scatter(flat.to(mask.device), mask)
