"""Rollout backends: who turns prompts into responses, behind one small seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

HF = "backend=hf in a configuration (`fairlead generate` has the native one alone)"
"""What to use for a model that the native backend cannot run."""


@dataclass(frozen=True)
class GenerationRequest:
    """A batch of prompts and how to continue them.

    Attributes:
        prompts: Token ids of each prompt; at least one token each.
        sequence_ids: For each prompt the number its random draws are keyed by, so that they
            do not depend on batch slot or batch size (fidelity item 14).
        max_new_tokens: Longest response, the stop token included.
        stop_token_ids: Any of them ends a response and is part of it; may be empty.
        temperature: Divides the logits; 0 is greedy.
        seed: With ``iteration``, ``sequence_ids`` and the position it keys every draw.
        iteration: The rollout iteration.
        token_budget: Most tokens of a forward pass over prompts, padding included.
        stop_strings: Any of them ends a response, with the token that completes it.
        decode: From token ids to text; needed for stop strings.
    """

    prompts: Sequence[Sequence[int]]
    sequence_ids: Sequence[int]
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float
    seed: int
    iteration: int
    token_budget: int
    stop_strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None


@dataclass(frozen=True)
class Generated:
    """One response.

    Attributes:
        tokens: ``[n]`` int64, n >= 1, the stop token included.
        logprobs: ``[n]`` float32, under the distribution they were drawn from.
        finish: ``stop`` or ``length``.
        entropy: ``[n]`` float32, of those distributions, nats; None where it is not known.
    """

    tokens: Tensor
    logprobs: Tensor
    finish: Literal["stop", "length"]
    entropy: Tensor | None = None


class RolloutBackend(Protocol):
    """``Backend(config)``."""

    def generate(self, model: nn.Module, request: GenerationRequest) -> list[Generated]:
        """Return one response to each prompt, in the prompts' order."""
        ...


__all__ = ["HF", "Generated", "GenerationRequest", "RolloutBackend"]
