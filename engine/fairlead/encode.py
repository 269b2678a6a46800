"""From records to token ids, and which of them are trained on.

Each turn is tokenised by itself and the ids are joined, so the ids of a prompt are the same
whether a response follows or not. Nothing is ever decoded and tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fairlead.errors import DataError
from fairlead.records import Comparison, Demonstration, Prompt, Record, Turn

TrainOn = Literal["last", "all"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and which of them count.

    Attributes:
        ids: The tokens of prompt and response.
        targets: True where the token is to be predicted; as long as ``ids``.
    """

    ids: tuple[int, ...]
    targets: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class EncodedRanking:
    """A prompt's K responses as whole sequences, with their ranks.

    Attributes:
        sequences: Token ids, K of them.
        ranks: One a sequence, lower is better.
        prompt: The prompt's text: one asked several times is still one prompt.
    """

    sequences: tuple[tuple[int, ...], ...]
    ranks: tuple[float, ...]
    prompt: str = ""

    def __len__(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


class Encoder:
    """Turns records into ids with one tokenizer.

    Args:
        tokenizer: A transformers tokenizer with an end-of-sequence token.
        train_on: ``last``: the loss is on the last assistant turn; ``all``: on every one.
    """

    def __init__(self, tokenizer: Any, train_on: TrainOn = "last") -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.eos: int = tokenizer.eos_token_id
        probe = tokenizer("a")["input_ids"]
        bos = tokenizer.bos_token_id
        # Families that begin every sequence with BOS (Llama) keep doing so.
        self._start = (bos,) if bos is not None and probe[:1] == [bos] and len(probe) > 1 else ()

    def text(self, record: Record) -> list[int]:
        """Return the ids of a whole record as plain text, without a separator at its end."""
        return self._ids("".join(turn.text for turn in record.turns))

    def prompt(self, record: Prompt | Demonstration | Comparison) -> list[int]:
        """Return a prompt's ids: what the policy is given to continue."""
        turns = record.prompt_turns
        if record.chat:
            return self._ids(self._render(turns, generation=True))
        return [token for ids, _ in self._raw(turns) for token in ids]

    def demonstration(self, record: Demonstration) -> Encoded:
        """Return a demonstration with its target mask: assistant turns, EOS included."""
        pieces = self._pieces(record)
        last = len(pieces) - 1
        ids: list[int] = []
        targets: list[bool] = []
        for number, (piece, spoken) in enumerate(pieces):
            ids += piece
            counts = spoken and (self.train_on == "all" or number == last)
            targets += [counts] * len(piece)
        targets[:1] = [False] * len(targets[:1])  # nothing predicts the first token of all
        return Encoded(tuple(ids), tuple(targets))

    def ranking(self, record: Comparison) -> EncodedRanking:
        """Return every response of a comparison behind its prompt, each ending in EOS."""
        prompt = self.prompt(record)
        sequences = []
        for response in record.responses:
            if record.chat:
                whole = Demonstration(turns=(*record.turns, Turn("assistant", response)), chat=True)
                sequences.append(self.demonstration(whole).ids)
            else:
                sequences.append((*prompt, *self._ids(response), self.eos))
        return EncodedRanking(tuple(sequences), record.ranks, record.prompt_text)

    def pieces_for_display(self, record: Demonstration) -> list[tuple[str, bool]]:
        """Return the decoded pieces of a demonstration and whether each is trained on."""
        encoded = self.demonstration(record)
        pieces: list[tuple[str, bool]] = []
        start = 0
        for end in range(1, len(encoded) + 1):
            if end == len(encoded) or encoded.targets[end] != encoded.targets[start]:
                text = self.tokenizer.decode(list(encoded.ids[start:end]))
                pieces.append((text, encoded.targets[start]))
                start = end
        return pieces

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _pieces(self, record: Demonstration) -> list[tuple[list[int], bool]]:
        return self._chat(record) if record.chat else self._raw(record.turns)

    def _raw(self, turns: Sequence[Turn]) -> list[tuple[list[int], bool]]:
        """Encode turns as they stand; every assistant turn ends in EOS."""
        pieces: list[tuple[list[int], bool]] = [(list(self._start), False)]
        for turn in turns:
            spoken = turn.role == "assistant"
            pieces.append((self._ids(turn.text) + ([self.eos] if spoken else []), spoken))
        return pieces

    def _chat(self, record: Demonstration) -> list[tuple[list[int], bool]]:
        """Render through the chat template; a turn is what the template adds for it.

        A response ends at its first EOS, as in a rollout: what the template puts behind it
        (a line break, often) is context for the next turn, and after the last turn nothing.
        """
        pieces: list[tuple[list[int], bool]] = []
        done = ""
        for end, turn in enumerate(record.turns, 1):
            final = end == len(record.turns)
            if turn.role != "assistant" or (self.train_on == "last" and not final):
                continue
            opening = self._render(record.turns[: end - 1], generation=True)
            whole = self._render(record.turns[:end], generation=False)
            if not (opening.startswith(done) and whole.startswith(opening)):
                raise DataError(
                    f"{record.origin or 'a conversation'}: the tokenizer's chat template rewrites "
                    "earlier turns, so assistant turns cannot be told apart. Use a template that "
                    "only appends, or give the records as prompt and completion."
                )
            spoken = self._ids(whole[len(opening) :])
            if final and self.eos not in spoken:
                spoken.append(self.eos)
            length = spoken.index(self.eos) + 1 if self.eos in spoken else len(spoken)
            pieces.append((self._ids(opening[len(done) :]), False))
            pieces.append((spoken[:length], True))
            if not final:
                pieces.append((spoken[length:], False))
            done = whole
        return pieces

    def _render(self, turns: Sequence[Turn], *, generation: bool) -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                "the data holds messages and the tokenizer has no chat template. Use a tokenizer "
                "that has one, or give the records as prompt and completion."
            )
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation
        )
        return text
