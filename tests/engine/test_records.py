"""Records: what each kind can stand in for, and what decides its side of a split."""

from __future__ import annotations

import pytest

from fairlead.errors import DataError
from fairlead.records import (
    Comparison,
    Demonstration,
    Prompt,
    Record,
    Text,
    Turn,
    convert,
    stable_fraction,
)

ASKED = (Turn("user", "Q: why? "),)
SHARED = {"user": "ada", "origin": "file:3", "metadata": {"topic": 1}}


def prompt() -> Prompt:
    return Prompt(ASKED, **SHARED)  # type: ignore[arg-type]


def demonstration() -> Demonstration:
    return Demonstration((*ASKED, Turn("assistant", "because")), **SHARED)  # type: ignore[arg-type]


def comparison() -> Comparison:
    return Comparison(
        ASKED,
        responses=("so what", "because", "hm"),
        ranks=(1.0, 0.0, 0.0),
        **SHARED,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("record", "kind", "text"),
    [
        (comparison(), Demonstration, "Q: why? because"),
        (comparison(), Prompt, "Q: why? "),
        (comparison(), Text, "Q: why? because"),
        (demonstration(), Prompt, "Q: why? "),
        (demonstration(), Text, "Q: why? because"),
        (prompt(), Text, "Q: why? "),
    ],
)
def test_a_richer_record_is_read_as_a_poorer_one(
    record: Record, kind: type[Record], text: str
) -> None:
    made = convert(record, kind)
    assert type(made) is kind
    assert "".join(turn.text for turn in made.turns) == text
    assert (made.user, made.origin, made.metadata) == ("ada", "file:3", {"topic": 1})


@pytest.mark.parametrize("record", [prompt(), demonstration(), comparison()])
def test_a_record_of_the_kind_asked_for_is_left_alone(record: Record) -> None:
    assert convert(record, type(record)) is record


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (Text((Turn("user", "some text"),), origin="file:3"), Prompt),
        (Text((Turn("user", "some text"),), origin="file:3"), Demonstration),
        (prompt(), Demonstration),
        (prompt(), Comparison),
        (demonstration(), Comparison),
    ],
)
def test_a_poorer_record_is_refused_with_its_origin(record: Record, kind: type[Record]) -> None:
    with pytest.raises(
        DataError, match=rf"^file:3: a .* cannot be used as a {kind.__name__.lower()}"
    ):
        convert(record, kind)


def test_the_first_of_tied_best_responses_is_taken() -> None:
    assert comparison().best == "because"


def test_every_reading_of_a_record_falls_on_the_same_side_of_a_split() -> None:
    anonymous = Comparison(ASKED, responses=("a", "b"), ranks=(0.0, 1.0))
    keys = {convert(anonymous, kind).split_key() for kind in (Comparison, Demonstration, Prompt)}
    assert keys == {"prompt:Q: why? "}


def test_a_user_is_kept_on_one_side_whatever_was_asked() -> None:
    other = Prompt((Turn("user", "something else"),), user="ada")
    assert other.split_key() == prompt().split_key() == "user:ada"
    # Somebody called "x" is not the prompt "x".
    assert Prompt((), user="x").split_key() != Prompt((Turn("user", "x"),)).split_key()


def test_the_side_of_a_split_is_the_same_on_every_machine() -> None:
    assert stable_fraction("prompt:hello", 0) == 0.8581388714054549
    assert stable_fraction("prompt:hello", 1) != stable_fraction("prompt:hello", 0)
    share = sum(stable_fraction(f"prompt:{i}", 7) < 0.1 for i in range(4000)) / 4000
    assert 0.08 < share < 0.12
