"""One object as read, and checks on its fields; a fault says what is wrong with a record."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FieldName = Literal[
    "prompt",
    "completion",
    "response",
    "messages",
    "chosen",
    "rejected",
    "responses",
    "ranks",
    "text",
    "instruction",
    "input",
    "output",
    "instances",
    "user",
]
"""The fields records are made of, by their usual names."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


class Fault(Exception):
    """Why a record cannot be used: what was found and what is needed.

    The origin and what to do are added where faults are counted, in `gather`.
    """


def show(value: Any) -> str:
    """Return a short ``repr`` for a message."""
    return _REPR.repr(value)


@dataclass(frozen=True)
class Row:
    """An object with its fields under their usual names.

    Attributes:
        value: The object as read.
        origin: Where it was read, as ``file:line``.
        fields: Usual name to the name the object has for it, where they differ.
    """

    value: Mapping[str, Any]
    origin: str = ""
    fields: Mapping[FieldName, str] = field(default_factory=dict)

    def key(self, name: FieldName) -> str:
        """Return the name the object has for a field; empty when it is taken by another."""
        if name not in self.fields and name in self.fields.values():
            return ""
        return self.fields.get(name, name)

    def get(self, name: FieldName) -> Any:
        """Return a field, or None; a null counts as absent, as tables fill gaps with it."""
        return self.value.get(self.key(name))

    def has(self, name: FieldName) -> bool:
        """Whether the field is there and not null."""
        return self.get(name) is not None

    def need(self, name: FieldName) -> Any:
        """Return a field.

        Raises:
            Fault: When it is missing.
        """
        value = self.get(name)
        if value is None:
            there = ", ".join(map(str, self.value)) or "none"
            hint = "" if name in self.fields else f" (fields: {{{name}: NAME}} if named otherwise)"
            raise Fault(
                f"the field {self.key(name) or name!r} is missing, and needed{hint}; fields "
                f"there: {there}"
            )
        return value

    def text(self, name: FieldName, what: str) -> str:
        """Return a field that must be a text of more than whitespace."""
        return check_text(self.need(name), f"{self.key(name)!r}", what)

    def rest(self, *used: FieldName) -> dict[str, Any]:
        """Return the object without the fields used: a record's metadata."""
        names: tuple[FieldName, ...] = (*used, "user")
        taken = {self.key(name) for name in names}
        return {key: item for key, item in self.value.items() if key not in taken}

    def user(self) -> str | None:
        """Return who wrote the prompt, or None where that is absent or blank."""
        value = self.get("user")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise Fault(f"{self.key('user')!r} is {show(value)}; needed: a text or a whole number")
        return check_encodable(str(value), f"{self.key('user')!r}") if str(value).strip() else None


def check_text(value: Any, where: str, what: str) -> str:
    """Return a value that must be a text of more than whitespace.

    Args:
        value: What was found.
        where: The field's name, for the message.
        what: What the text is, such as ``response``.

    Raises:
        Fault: When it is no text, is blank, or cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise Fault(f"{where} is {show(value)}, of type {type(value).__name__}; needed: a text")
    if not value.strip():
        raise Fault(f"{where} is an empty {what} ({show(value)}); needed: more than whitespace")
    return check_encodable(value, where)


def check_encodable(value: str, where: str) -> str:
    """Return a text; half a surrogate pair, which no tokenizer takes, is a fault."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Fault(
            f"{where} has half of a surrogate pair ({value[error.start]!a}) at character "
            f"{error.start}; needed: whole Unicode characters"
        ) from error
    return value
