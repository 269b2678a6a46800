"""The ``hf`` rollout backend: transformers' generate, with our keyed sampler.

It alone pads on the left, since batched `generate` needs that, and hands responses back
without padding. Sampling goes through a logits processor that draws with the pinned sampler
and leaves only the drawn token possible; transformers' own sampling is never used.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from fairlead.config import Config
from fairlead.data import microbatches
from fairlead.generation import Generated, GenerationRequest
from fairlead.generation.stops import Stops
from fairlead_kernels import philox_uniform, sample


class HfConfig(Config):
    """The ``hf`` backend has no settings of its own."""


class HfBackend:
    """Generates with transformers; works for every causal language model.

    A response that a stop string ended is cut afterwards: transformers goes on until every row
    has a stop token or is at its limit.
    """

    Config = HfConfig

    def __init__(self, config: HfConfig) -> None:
        self.config = config

    @torch.no_grad()
    def generate(self, model: nn.Module, request: GenerationRequest) -> list[Generated]:
        """Return one response to each prompt, in the prompts' order."""
        lengths = [len(prompt) + request.max_new_tokens for prompt in request.prompts]
        found: dict[int, Generated] = {}
        for rows in microbatches(lengths, request.token_budget):
            found.update(zip(rows, _generate_rows(model, request, rows), strict=True))
        return [found[index] for index in range(len(request.prompts))]


def _generate_rows(model: Any, request: GenerationRequest, rows: list[int]) -> list[Generated]:
    width = max(len(request.prompts[row]) for row in rows)
    device = model.device
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for slot, row in enumerate(rows):
        prompt = torch.as_tensor(request.prompts[row], dtype=torch.int64)
        tokens[slot, width - len(prompt) :] = prompt
        mask[slot, width - len(prompt) :] = 1
    sampler = _KeyedSampler(request, [request.sequence_ids[row] for row in rows], width)
    stop = list(request.stop_token_ids)
    settings = GenerationConfig(
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        eos_token_id=stop or None,
        pad_token_id=0,
    )
    output = model.generate(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([sampler]),
        # With no stop token at all generate() would take the model's own.
        **({} if stop else {"eos_token_id": -1}),
    )[:, width:].cpu()
    logprobs = torch.stack(sampler.logprobs, dim=1).cpu()
    entropy = torch.stack(sampler.entropy, dim=1).cpu()
    stops = Stops(frozenset(stop), request.stop_strings, request.decode)
    return [_cut(output[slot], logprobs[slot], entropy[slot], stops) for slot in range(len(rows))]


def _cut(tokens: Tensor, logprobs: Tensor, entropy: Tensor, stops: Stops) -> Generated:
    """End a response where it should have ended; what ends it is part of it (item 11)."""
    length, ended = stops.length(tokens.tolist())
    finish: Literal["stop", "length"] = "stop" if ended else "length"
    return Generated(
        tokens[:length].clone(), logprobs[:length].clone(), finish, entropy[:length].clone()
    )


class _KeyedSampler(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Draws the next token itself and leaves nothing else possible."""

    def __init__(self, request: GenerationRequest, sequence_ids: list[int], width: int) -> None:
        self.request = request
        self.sequences = torch.tensor(sequence_ids, dtype=torch.int64)
        self.width = width
        self.logprobs: list[Tensor] = []
        self.entropy: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores of 0 at the drawn tokens and -inf elsewhere."""
        position = input_ids.shape[1] - self.width
        uniform = philox_uniform(
            self.request.seed,
            self.request.iteration,
            self.sequences,
            torch.full_like(self.sequences, position),
        ).to(scores.device)
        drawn, logprob, entropy = sample(scores.float(), uniform, self.request.temperature)
        self.logprobs.append(logprob)
        self.entropy.append(entropy)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)
