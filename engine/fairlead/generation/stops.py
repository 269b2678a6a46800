"""When a response ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]
"""From token ids to text."""

_SLACK = 8
"""Tokens looked at beyond the bytes of the longest string: some tokens are no text at all."""


@dataclass(frozen=True)
class Stops:
    """What ends a response; the token that does is part of it.

    Attributes:
        tokens: Any of these tokens.
        strings: Any of these, once the response's text contains it.
        decode: From tokens to text; needed where there are strings.

    Raises:
        ValueError: Strings without `decode`, or an empty string, which any text contains.
    """

    tokens: frozenset[int]
    strings: tuple[str, ...] = ()
    decode: Decode | None = None

    def __post_init__(self) -> None:
        if self.strings and self.decode is None:
            raise ValueError("stop strings were given without a way to decode tokens")
        if "" in self.strings:
            raise ValueError("an empty stop string ends every response: leave it out")

    def ended_by_last(self, response: Sequence[int]) -> bool:
        """Whether the last token of a response ends it."""
        if response[-1] in self.tokens:
            return True
        if not self.strings or self.decode is None:
            return False
        # A token is a byte at least, so what ends with it lies within so many tokens.
        reach = max(len(one.encode()) for one in self.strings) + _SLACK
        text = self.decode(response[-reach:])
        return any(one in text for one in self.strings)

    def length(self, response: Sequence[int]) -> tuple[int, bool]:
        """Return how long a response is that may go on after its end, and whether it ended."""
        for end in range(1, len(response) + 1):
            if self.ended_by_last(response[:end]):
                return end, True
        return len(response), False
