"""The four kinds of record a data source yields, and what each can stand in for.

A richer record can always be read as a poorer one: a comparison holds a demonstration (its
best response), a demonstration holds a prompt, and everything holds text. A stage asks for
the kind it trains on and :func:`convert` does the rest, so one preference file can feed
pretraining, SFT, the reward model and the RL prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fairlead.errors import DataError


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        text: What was said. In a raw (template-free) conversation it holds every
            separator too, so that the texts joined give the whole document.
    """

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """What every record carries.

    Attributes:
        turns: The conversation. Assistant turns are what a model is trained to say.
        chat: True when the turns are to be rendered by the tokenizer's chat template;
            False when their texts are joined as they stand.
        user: Who wrote the prompt, where known. Splits keep a user on one side.
        origin: Where it came from, as ``file:line``, for error messages.
        metadata: Anything else the record held; handed to reward functions untouched.
    """

    turns: tuple[Turn, ...]
    chat: bool = False
    user: str | None = None
    origin: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_turns(self) -> tuple[Turn, ...]:
        """The turns before the last assistant turn, where that turn ends the record."""
        return self.turns

    @property
    def prompt_text(self) -> str:
        """The prompt as plain text (turns joined), for splits, rewards and reports."""
        return "".join(turn.text for turn in self.prompt_turns)

    def split_key(self) -> str:
        """What decides the side of a split: the user where known, else the prompt."""
        return f"user:{self.user}" if self.user is not None else f"prompt:{self.prompt_text}"


@dataclass(frozen=True, slots=True)
class Text(Record):
    """Plain text for language modelling; one document."""


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """What a model is asked; the last turn is not the assistant's."""


@dataclass(frozen=True, slots=True)
class Demonstration(Record):
    """A conversation that ends with the assistant turn to imitate."""

    @property
    def prompt_turns(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.turns[:-1]

    @property
    def response(self) -> str:
        """The last assistant turn's text."""
        return self.turns[-1].text


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """A prompt with K ranked responses; ``turns`` is the prompt.

    Attributes:
        responses: K response texts.
        ranks: K numbers, lower is better, equal numbers are a tie.
    """

    responses: tuple[str, ...] = ()
    ranks: tuple[float, ...] = ()

    @property
    def best(self) -> str:
        """The best-ranked response; the first of them on a tie."""
        return self.responses[min(range(len(self.ranks)), key=self.ranks.__getitem__)]


RecordT = TypeVar("RecordT", bound=Record)


def convert(record: Record, kind: type[RecordT]) -> RecordT:
    """Read a record as another kind.

    Args:
        record: Any record.
        kind: `Text`, `Prompt`, `Demonstration` or `Comparison`.

    Returns:
        The record itself when it already is of that kind, else a poorer copy of it.

    Raises:
        DataError: When the record holds too little, as a prompt read as a comparison.
    """
    if isinstance(record, kind):
        return record
    shared: dict[str, Any] = {
        "chat": record.chat,
        "user": record.user,
        "origin": record.origin,
        "metadata": record.metadata,
    }
    if isinstance(record, Comparison):
        whole = (*record.turns, Turn("assistant", record.best))
    else:
        whole = record.turns
    if kind is Text:
        return kind(turns=whole, **shared)
    ends_with_assistant = bool(whole) and whole[-1].role == "assistant"
    if kind is Demonstration and ends_with_assistant:
        return kind(turns=whole, **shared)
    if kind is Prompt and isinstance(record, (Demonstration, Comparison)):
        return kind(turns=record.prompt_turns, **shared)
    raise DataError(
        f"{record.origin or 'a record'}: a {type(record).__name__.lower()} cannot be used as a "
        f"{kind.__name__.lower()}. This stage needs {NEEDS[kind]}; choose a data source that "
        "yields them."
    )


NEEDS: dict[type[Record], str] = {
    Text: "plain text",
    Prompt: "prompts",
    Demonstration: "prompts with a demonstrated response",
    Comparison: "prompts with ranked responses",
}


def stable_fraction(key: str, seed: int) -> float:
    """Map a key to [0, 1), the same on every machine and in every process."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
