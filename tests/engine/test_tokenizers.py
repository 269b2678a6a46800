"""Tokenizers trained from text: words, bytes, and what each can and cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support import configure, minimal_stage

from fairlead.errors import ConfigError
from fairlead.tokenizers import (
    END_OF_TEXT,
    PAD,
    UNKNOWN,
    TokenizerSettings,
    load_tokenizer,
    train_tokenizer,
)

TEXTS = ["the pet of bob is cat .", "the pet of anna is dog .", "the dog is old ."]
# the, is, .: 3 times; pet, of, dog: twice; bob, cat, anna, old: once.


def words(texts: list[str] = TEXTS, **settings: Any) -> Any:
    return train_tokenizer(TokenizerSettings(kind="words", **settings), texts)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    return found


def test_words_come_back_as_they_were_one_token_each() -> None:
    tokenizer = words()
    for text in TEXTS:
        encoded = ids(tokenizer, text)
        assert len(encoded) == len(text.split())
        assert tokenizer.decode(encoded) == text
        assert tokenizer.batch_decode([encoded], skip_special_tokens=True) == [text]


def test_white_space_between_words_becomes_one_space() -> None:
    tokenizer = words()
    assert tokenizer.decode(ids(tokenizer, "  the\n pet  of\tbob ")) == "the pet of bob"


def test_a_word_that_was_never_read_is_the_unknown_one() -> None:
    tokenizer = words()
    encoded = ids(tokenizer, "the bobcat is old.")
    # `bobcat` and `old.` are no words of the text, though parts of them are.
    assert [number == tokenizer.unk_token_id for number in encoded] == [False, True, False, True]
    assert tokenizer.unk_token == UNKNOWN
    assert tokenizer.decode(encoded, skip_special_tokens=True) == "the is"


def test_the_special_tokens_are_three_different_ones() -> None:
    tokenizer = words()
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, PAD)
    special = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert len(set(special)) == 3
    assert ids(tokenizer, f"dog {END_OF_TEXT}")[-1] == tokenizer.eos_token_id


def test_the_size_limit_leaves_out_the_rarest_words() -> None:
    assert len(words()) == 3 + 10
    small = words(vocab_size=9)
    assert set(small.get_vocab()) == {
        END_OF_TEXT,
        PAD,
        UNKNOWN,
        "the",
        "is",
        ".",
        "pet",
        "of",
        "dog",
    }
    assert ids(small, "bob")[0] == small.unk_token_id
    assert len(words(vocab_size=4)) == 4


def test_words_survive_being_saved(tmp_path: Path) -> None:
    tokenizer = words()
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in [*TEXTS, "the bobcat"]:
        assert ids(loaded, text) == ids(tokenizer, text)
        assert loaded.decode(ids(loaded, text)) == tokenizer.decode(ids(tokenizer, text))
    assert loaded.pad_token_id != loaded.eos_token_id
    assert loaded.unk_token_id == tokenizer.unk_token_id


def test_bytes_are_the_default_and_encode_what_was_never_read() -> None:
    tokenizer = train_tokenizer(TokenizerSettings(vocab_size=300), TEXTS)
    for text in (" the bobcat's 5 naïve\n\nquestions 🦉", "  two  spaces "):
        assert tokenizer.decode(ids(tokenizer, text)) == text
    assert tokenizer.unk_token is None


@pytest.mark.parametrize("size", [100, 257])
def test_bytes_need_room_for_every_byte(size: int) -> None:
    with pytest.raises(ValidationError, match=f"vocab_size={size} does not hold the 256 bytes"):
        TokenizerSettings(vocab_size=size)
    assert TokenizerSettings(vocab_size=258).kind == "bytes"
    assert TokenizerSettings(kind="words", vocab_size=size).vocab_size == size


def test_a_recipe_is_told_what_to_give_instead() -> None:
    stage = {**minimal_stage(), "tokenizer": {"vocab_size": 100}}
    with pytest.raises(ConfigError, match=r"(?s)tokenizer.*at least 258, or kind: words"):
        configure({"stages": {"one": stage}})
    stage["tokenizer"] = {"kind": "words", "vocab_size": 100}
    config, _ = configure({"stages": {"one": stage}})
    assert config.stages["one"].config.tokenizer == TokenizerSettings(kind="words", vocab_size=100)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="'bytes' or 'words'"):
        TokenizerSettings(kind="letters")  # type: ignore[arg-type]
