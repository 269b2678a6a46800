"""Tokenizers: loading, training one from nothing, and the special tokens a run relies on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordLevelTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fairlead.config import Config
from fairlead.errors import ConfigError
from fairlead.models import check_location

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"
SMALLEST_BPE = 258


class TokenizerSettings(Config):
    """How to train a tokenizer.

    Attributes:
        kind: ``bytes``: byte-level BPE, which can encode any text. ``words``: one token for
            each word between white space, and ``<|unknown|>`` for all others; decoding puts one
            space between two words, whatever stood there.
        vocab_size: Entries at most, the special tokens (and the 256 bytes) among them.
    """

    kind: Literal["bytes", "words"] = "bytes"
    vocab_size: int = Field(default=2048, ge=4)

    @model_validator(mode="after")
    def _room_for_bytes(self) -> TokenizerSettings:
        if self.kind == "bytes" and self.vocab_size < SMALLEST_BPE:
            raise ValueError(
                f"vocab_size={self.vocab_size} does not hold the 256 bytes and two special tokens; "
                f"give at least {SMALLEST_BPE}, or kind: words"
            )
        return self


def train_tokenizer(settings: TokenizerSettings, texts: Iterable[str]) -> Any:
    """Train a tokenizer on text."""
    special: dict[str, Any] = {"eos_token": END_OF_TEXT, "pad_token": PAD}
    if settings.kind == "words":
        words = Tokenizer(WordLevel(unk_token=UNKNOWN))
        words.pre_tokenizer = WhitespaceSplit()
        trainer = WordLevelTrainer(
            vocab_size=settings.vocab_size, special_tokens=[END_OF_TEXT, PAD, UNKNOWN]
        )
        words.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(
            tokenizer_object=words,
            unk_token=UNKNOWN,
            clean_up_tokenization_spaces=False,
            **special,
        )
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts,
        vocab_size=settings.vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END_OF_TEXT, PAD],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        **special,
    )


def load_tokenizer(location: str, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer.

    Raises:
        ConfigError: When there is none, or it has no end-of-sequence token.
    """
    check_location(location)
    path = Path(location)
    if path.is_dir() and not [*path.glob("tokenizer*"), *path.glob("vocab*")]:
        raise ConfigError(
            f"{location} is not a model directory: it has no tokenizer files. Give a directory "
            "written by save_pretrained (a finished stage's, say), or a hub name."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"no tokenizer can be loaded from {location!r}: {str(error).strip().splitlines()[0]}. "
            "Give a directory with tokenizer files beside the model's, or a hub name."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {location!r} has no end-of-sequence token, and a response could "
            "never end. Set eos_token in its tokenizer_config.json."
        )
    return tokenizer


def with_distinct_pad(tokenizer: Any) -> bool:
    """Make sure the pad token differs from every token that can end a response.

    transformers finds the last token of a sequence by looking for padding, so a pad token
    that is also the stop token would hide it (DESIGN, Checkpoints).

    Returns:
        True when a token was added: the model's embeddings must then be resized.
    """
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return False
    before = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": PAD})
    return len(tokenizer) > before


def stop_token_ids(tokenizer: Any, stop: list[str] | None) -> tuple[int, ...]:
    """Return the ids that end a response.

    Args:
        tokenizer: The policy's tokenizer.
        stop: Tokens by text; None means the tokenizer's end-of-sequence token, and an empty
            list means that only the length limit ends a response.

    Raises:
        ConfigError: When a text is not exactly one token.
    """
    if stop is None:
        return (int(tokenizer.eos_token_id),)
    found = []
    for text in stop:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ConfigError(
                f"the stop token {text!r} is {len(ids)} tokens in this vocabulary; a stop token "
                "is one. Choose a token of the vocabulary, such as "
                f"{tokenizer.eos_token!r}."
            )
        found.append(int(ids[0]))
    return tuple(found)


def check_same_vocabulary(policy: Any, other: Any, what: str) -> None:
    """Check that every token of the policy means the same to another model, by id.

    The other vocabulary may be larger (a reward model may have a pad token of its own).

    Raises:
        ConfigError: Names the first tokens that differ.
    """
    mine, theirs = policy.get_vocab(), other.get_vocab()
    wrong = [token for token, index in mine.items() if theirs.get(token) != index]
    if wrong:
        shown = ", ".join(
            f"{token!r} is {mine[token]} here and {theirs.get(token, 'missing')} there"
            for token in sorted(wrong, key=mine.__getitem__)[:3]
        )
        raise ConfigError(
            f"{what} does not share the policy's vocabulary: {len(wrong)} of {len(mine)} tokens "
            f"differ ({shown}). Use a model trained with the same tokenizer, or score text "
            "instead of ids with the reward 'classifier'."
        )
