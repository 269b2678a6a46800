"""The ``native`` rollout backend: prompts prefilled into slots, then one token a row and step.

Nothing is padded on the left, the cache does not grow, and a row that has ended makes room for the
next prompt. Kernels of `fairlead_kernels` attend and sample.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fairlead.config import Config
from fairlead.generation import Generated, GenerationRequest
from fairlead.generation.attend import attending
from fairlead.generation.cache import SlotCache, fitting_slots, layer_shapes
from fairlead.generation.graphs import Drawn, StepFunction
from fairlead.generation.recorded import fastest_step
from fairlead.generation.step import prompt_logits
from fairlead.generation.stops import Stops
from fairlead.models import context_length
from fairlead_kernels import philox_uniform, sample

AHEAD = 64
"""Uniform numbers that are drawn at once for a sequence: of one each the calls would cost more."""


class NativeConfig(Config):
    """Settings of the ``native`` backend.

    Attributes:
        slots: Sequences that are generated at once; None: all of them, or as many as fit into half
            of the free memory. Where they do not all fit, a number makes a resumed run the same
            to the last bit: matrix products of another number of rows round otherwise.
        record: Record a decoding step once and repeat the recording, which is faster; where a
            model cannot be recorded it is run as it is.
    """

    slots: int | None = Field(default=None, ge=1)
    record: bool = True


def _floats() -> array[float]:
    return array("f")


@dataclass
class Pending:
    """A response in the making."""

    row: int
    prompt: Sequence[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: array[float] = field(default_factory=_floats)
    entropy: array[float] = field(default_factory=_floats)
    uniform: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in the cache once the last one drawn is run."""
        return len(self.prompt) + len(self.tokens)

    def finished(self, stopped: bool) -> Generated:
        """Return the response."""
        finish: Literal["stop", "length"] = "stop" if stopped else "length"
        logprobs, entropy = (
            torch.frombuffer(one, dtype=torch.float32) for one in (self.logprobs, self.entropy)
        )
        return Generated(torch.tensor(self.tokens), logprobs, finish, entropy)


class NativeBackend:
    """Generates with the slot cache and the kernels of `fairlead_kernels`."""

    Config = NativeConfig

    def __init__(self, config: NativeConfig) -> None:
        self.config = config

    @torch.no_grad()
    def generate(self, model: nn.Module, request: GenerationRequest) -> list[Generated]:
        """Return one response to each prompt, in the prompts' order.

        Raises:
            ConfigError: When models of this kind cannot be run so, or the cache does not fit.
            ValueError: For a prompt that is empty or leaves no room for a response.
        """
        queue = _queue(model, request)
        if not queue:
            return []
        positions = max(len(one.prompt) + one.limit for one in queue)
        with attending(model, positions):
            shapes = layer_shapes(model)
            device: Any = model.device
            slots = fitting_slots(shapes, len(queue), positions, device, self.config.slots)
            cache = SlotCache(shapes, slots, positions, device)
            step = fastest_step(model, cache, request.temperature, self.config.record)
            return _Loop(model, request, cache, step, queue).run()


class _Loop:
    """One batch of prompts on its way through the slots.

    Live sequences are in the first slots, without gaps: ``self.live[b]`` is in slot b.
    """

    def __init__(
        self,
        model: Any,
        request: GenerationRequest,
        cache: SlotCache,
        step: StepFunction,
        queue: deque[Pending],
    ) -> None:
        self.model, self.request, self.cache, self.step = model, request, cache, step
        self.queue = queue
        self.live: list[Pending] = []
        self.done: dict[int, Generated] = {}
        self.stops = Stops(frozenset(request.stop_token_ids), request.stop_strings, request.decode)
        # Few prompts at a time would be as slow as many: slots are refilled some at once.
        self.refill = max(1, cache.slots // 8)

    def run(self) -> list[Generated]:
        """Generate everything; responses in the prompts' order."""
        count = len(self.queue)
        while self.queue or self.live:
            # 1. Let prompts in where slots are free, and draw their first tokens.
            if self.queue and (self.cache.slots - len(self.live) >= self.refill or not self.live):
                self.admit()
            # 2. One token more for each live sequence.
            if self.live:
                self.decode()
        return [self.done[row] for row in range(count)]

    def admit(self) -> None:
        """Prefill the next prompts into free slots, as many as the token budget allows."""
        while self.queue and len(self.live) < self.cache.slots:
            group, distinct = self._next_group()
            first = len(self.live)
            index = {prompt: number for number, prompt in enumerate(distinct)}
            source = [index[tuple(one.prompt)] for one in group]
            lengths = [len(prompt) for prompt in distinct]
            tokens = torch.zeros(len(distinct), max(lengths), dtype=torch.int64)
            for number, prompt in enumerate(distinct):
                tokens[number, : len(prompt)] = torch.tensor(prompt)
            device = self.model.device
            sources = torch.tensor(source, device=device)
            slots = torch.arange(first, first + len(group), device=device)
            logits = prompt_logits(
                self.model,
                self.cache.filling(slots, sources),
                tokens.to(device),
                torch.tensor(lengths, device=device),
            )
            self.live += group
            uniform = self._uniform(group)
            self._append(group, sample(logits[sources], uniform, self.request.temperature))
            self._retire()

    def decode(self) -> None:
        """Run the last token of each live sequence, and draw the next."""
        device = self.model.device
        tokens = torch.tensor([one.tokens[-1] for one in self.live], device=device)
        positions = torch.tensor([one.length - 1 for one in self.live], device=device)
        self._append(self.live, self.step(tokens, positions, self._uniform(self.live)))
        self._retire()

    def _next_group(self) -> tuple[list[Pending], list[tuple[int, ...]]]:
        """Take sequences from the queue, and their prompts without repetition."""
        group: list[Pending] = []
        distinct: dict[tuple[int, ...], None] = {}
        while self.queue and len(self.live) + len(group) < self.cache.slots:
            prompt = tuple(self.queue[0].prompt)
            widest = max([len(prompt), *map(len, distinct)])
            rows = len(distinct) + (prompt not in distinct)
            if group and rows * widest > self.request.token_budget:
                break
            distinct[prompt] = None
            group.append(self.queue.popleft())
        return group, list(distinct)

    def _uniform(self, sequences: Sequence[Pending]) -> Tensor:
        """Return the uniform number of each sequence's next token, ``[B]`` float64."""
        self._look_ahead([one for one in sequences if len(one.tokens) == len(one.uniform)])
        next_ones = [one.uniform[len(one.tokens)] for one in sequences]
        return torch.tensor(next_ones, dtype=torch.float64, device=self.model.device)

    def _append(self, sequences: Sequence[Pending], drawn: Drawn) -> None:
        columns = (column.tolist() for column in drawn)
        for one, token, logprob, entropy in zip(sequences, *columns, strict=True):
            one.tokens.append(token)
            one.logprobs.append(logprob)
            one.entropy.append(entropy)

    def _look_ahead(self, sequences: Sequence[Pending]) -> None:
        """Draw the uniform numbers of the next positions: each is a function of its position."""
        if not sequences:
            return
        ids = torch.tensor([self.request.sequence_ids[one.row] for one in sequences])
        begins = torch.tensor([len(one.uniform) for one in sequences])
        ahead = min(AHEAD, max(one.limit - len(one.uniform) for one in sequences))
        positions = begins[:, None] + torch.arange(ahead)
        uniform = philox_uniform(
            self.request.seed,
            self.request.iteration,
            ids.repeat_interleave(ahead),
            positions.flatten(),
        )
        for one, row in zip(sequences, uniform.view(-1, ahead).tolist(), strict=True):
            one.uniform += row

    def _retire(self) -> None:
        """Hand out what has ended, and close the gaps that it leaves."""
        # From the end: what is moved into a gap is a sequence that goes on.
        for slot in reversed(range(len(self.live))):
            one = self.live[slot]
            stopped = self.stops.ended_by_last(one.tokens)
            if not stopped and len(one.tokens) < one.limit:
                continue
            self.done[one.row] = one.finished(stopped)
            last = self.live.pop()
            if last is not one:
                self.cache.move(len(self.live), slot, last.length - 1)
                self.live[slot] = last


def _queue(model: Any, request: GenerationRequest) -> deque[Pending]:
    """Return the prompts, longest first, equal ones side by side.

    Prompts of one length share a prefill without padding, and the long ones, which may take
    longest, do not come last.
    """
    context = context_length(model.config)
    sequences = []
    for row, prompt in enumerate(request.prompts):
        room = context - len(prompt)
        if not len(prompt) or room < 1:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens, and this model takes {context} with the "
                f"response: a prompt may have 1 to {context - 1}. Leave it out or cut it."
            )
        sequences.append(Pending(row, prompt, min(request.max_new_tokens, room)))
    order = sorted(sequences, key=lambda one: (-len(one.prompt), tuple(one.prompt)))
    return deque(order)
