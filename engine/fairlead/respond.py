"""Responses of one model to fixed prompts, scored: for evaluation, not for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.components import Reward, RewardBatch
from fairlead.data import pad
from fairlead.encode import Encoder
from fairlead.errors import ConfigError, DataError
from fairlead.generation import GenerationRequest, RolloutBackend
from fairlead.models import context_length
from fairlead.records import Prompt
from fairlead.scoring import score
from fairlead.strategy import Strategy


@dataclass(frozen=True)
class Responses:
    """What a model said.

    Attributes:
        texts: One response to each prompt.
        scores: ``[B]`` float32, or None without a reward.
    """

    texts: list[str]
    scores: Tensor | None


def fitting_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, config: Any, max_new_tokens: int, count: int
) -> list[tuple[Prompt, list[int]]]:
    """Return the first ``count`` prompts that leave room for a response, with their ids.

    Raises:
        ConfigError: When the response alone takes the whole context.
        DataError: When no prompt leaves room.
    """
    encoder = Encoder(tokenizer)
    room = prompt_room(context_length(config), max_new_tokens)
    encoded = ((prompt, encoder.prompt(prompt)) for prompt in prompts)
    kept = [pair for pair in encoded if 0 < len(pair[1]) <= room][:count]
    if not kept:
        raise DataError(
            f"none of {len(prompts)} held-out prompts can be used here: one may have 1 to {room} "
            "tokens. Raise heldout, lower max_new_tokens, or give other prompts."
        )
    return kept


def prompt_room(context: int, max_new_tokens: int) -> int:
    """Return how long a prompt may be where a response of full length follows it.

    Raises:
        ConfigError: When not even one token is left.
    """
    if max_new_tokens >= context:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: the model takes "
            f"{context} tokens, prompt and response together (of several models, the one with the "
            f"shortest context). Set max_new_tokens to {context - 1} at most, or take a model with "
            "a longer context."
        )
    return context - max_new_tokens


@torch.no_grad()
def respond(
    model: nn.Module,
    prompts: Sequence[tuple[Prompt, list[int]]],
    backend: RolloutBackend,
    reward: Reward | None,
    tokenizer: Any,
    strategy: Strategy,
    *,
    max_new_tokens: int,
    stop_token_ids: tuple[int, ...],
    temperature: float,
    seed: int,
    token_budget: int,
) -> Responses:
    """Continue each prompt once, with random numbers that depend on the prompt's index alone.

    Two models asked with the same seed are given the same draws, which pairs them.
    """
    was_training = model.training
    model.eval()
    request = GenerationRequest(
        [ids for _, ids in prompts],
        range(len(prompts)),
        max_new_tokens,
        stop_token_ids,
        temperature,
        seed,
        0,
        token_budget,
    )
    with strategy.autocast():
        generated = backend.generate(model, request)
    model.train(was_training)
    answers = [g.tokens.tolist() for g in generated]
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    if reward is None:
        return Responses(texts, None)
    batch = RewardBatch(
        tokens=pad([[*ids, *a] for (_, ids), a in zip(prompts, answers, strict=True)]).to(
            strategy.device
        ),
        prompt_lengths=torch.tensor([len(ids) for _, ids in prompts], device=strategy.device),
        response_lengths=torch.tensor([len(a) for a in answers], device=strategy.device),
        prompts=[prompt for prompt, _ in prompts],
        responses=texts,
    )
    return Responses(texts, score(reward, batch).total.cpu())
