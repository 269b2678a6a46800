"""From pydantic's errors to lines a person can act on: where, what was given, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from fairlead.errors import did_you_mean, listing

Fault = tuple[tuple[str, ...], str]
"""A path and what is wrong there."""

_COMPONENT = "fairlead_component"


def component_error(faults: Sequence[Fault]) -> PydanticCustomError:
    """Return the error a component's field raises.

    pydantic adds the path that leads to the component, list index and all, and goes on to
    collect the faults of other fields.
    """
    return PydanticCustomError(_COMPONENT, "not a valid component", {"faults": list(faults)})


def explain(model: type[BaseModel], error: ValidationError) -> list[Fault]:
    """Return every fault of a configuration with its full path."""
    items = error.errors(include_url=False)
    walked = [_walk(model, item["loc"]) for item in items]
    # Of a union such as str | Mapping pydantic reports every member; once one of them was
    # entered, that the value is not one of the others is noise.
    entered = {prefix for _, _, prefix, at_tag in walked if prefix is not None and not at_tag}
    faults: list[Fault] = []
    for item, (path, _, prefix, at_tag) in zip(items, walked, strict=True):
        if not (at_tag and prefix in entered):
            faults += _lines(model, item, path)
    return faults


def _lines(model: type[BaseModel], item: Any, path: tuple[str, ...]) -> list[Fault]:
    if item["type"] == _COMPONENT:
        return [((*path, *inner), text) for inner, text in item["ctx"]["faults"]]
    if item["type"] == "missing":
        return [(path, "must be given.")]
    if item["type"] == "extra_forbidden":
        holder = _walk(model, item["loc"][:-1])[1]
        allowed = list(holder.model_fields) if _is_model(holder) else []
        hint = did_you_mean(path[-1], allowed)
        return [(path, f"there is no such key{hint}. Keys here: {listing(allowed)}.")]
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and isinstance(item.get("input"), Mapping):
        # A check of several fields: it says which, and all of them would say less.
        return [(path, f"{text}.")]
    given = repr(item.get("input"))
    given = given if len(given) <= 200 else f"{given[:200]}..."
    return [(path, f"{text}; got {given}.")]


def _walk(
    model: type[BaseModel], loc: Sequence[Any]
) -> tuple[tuple[str, ...], Any, tuple[str, ...] | None, bool]:
    """Follow pydantic's location through the annotations.

    Returns:
        The path as it stands in YAML (pydantic names union members in its own), the
        annotation there, the path of the last union met, and whether the location ends
        at the name of a member of it.
    """
    path: list[str] = []
    annotation: Any = model
    union: tuple[str, ...] | None = None
    at_tag = False
    for part in loc:
        members = _members(annotation)
        at_tag = len(members) > 1
        if at_tag:
            union = tuple(path)
            annotation = next((m for m in members if getattr(m, "__name__", "") == part), Any)
        else:
            path.append(str(part))
            annotation = _inside(members[0] if members else Any, part)
    return tuple(path), annotation, union, at_tag


def _members(annotation: Any) -> list[Any]:
    """Return what a value may be, None apart; one item unless it is a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for m in get_args(annotation) if m is not NoneType]
    return [annotation]


def _inside(annotation: Any, part: Any) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field is not None else Any
    arguments = [a for a in get_args(annotation) if a is not Ellipsis]
    return arguments[-1] if arguments else Any  # of a list's items, or a mapping's values


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
