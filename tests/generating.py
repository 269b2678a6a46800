"""Generating with the native backend, for tests of it."""

from __future__ import annotations

from typing import Any

from rl import request

from fairlead.generation import Generated
from fairlead.generation.native import NativeBackend, NativeConfig


def respond(model: Any, slots: int | None = None, **changes: Any) -> list[Generated]:
    settings = {"temperature": 1.0, **changes}
    return NativeBackend(NativeConfig(slots=slots)).generate(model, request(**settings))


def rows(found: list[Generated]) -> list[list[int]]:
    return [one.tokens.tolist() for one in found]


def as_it_is(model: Any, slots: int | None = None, **changes: Any) -> list[list[int]]:
    plain = NativeBackend(NativeConfig(slots=slots, record=False))
    return rows(plain.generate(model, request(**{"temperature": 1.0, **changes})))
