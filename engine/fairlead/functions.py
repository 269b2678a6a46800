"""Functions of the user's, by reference: imported, called with texts, their numbers checked."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.errors import ConfigError, RewardError

Function = Callable[..., Sequence[float]]


def load_function(reference: str) -> Function:
    """Import ``path.py:function`` or ``module:function``.

    Raises:
        ConfigError: When there is no such file, module or function.
    """
    source, colon, name = reference.rpartition(":")
    if not colon or not source or not name:
        raise ConfigError(
            f"function={reference!r}: give path/to/file.py:function or package.module:function."
        )
    try:
        if source.endswith(".py"):
            path = Path(source).resolve()
            module_name = f"fairlead_function_{path.stem}"
            spec = importlib.util.spec_from_file_location(module_name, path)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        function: Function = getattr(module, name)
    except Exception as error:
        raise ConfigError(
            f"function={reference!r} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not callable(function):
        raise ConfigError(f"function={reference!r} is a {type(function).__name__}, not a function.")
    return function


def call_function(
    function: Function,
    who: str,
    prompts: list[str],
    texts: Sequence[list[str]],
    metadata: list[Any],
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """Call ``function(prompts, *texts, metadata)`` and check what it returns.

    Args:
        function: What to call.
        who: What it is called in messages, such as ``the reward function rewards.py:score``.
        prompts: n prompts, at least one.
        texts: One list of n responses, or several.
        metadata: n mappings.
        low: The least number allowed.
        high: The greatest.

    Returns:
        n numbers.

    Raises:
        RewardError: When it raises, returns another number of values, or a value that is not a
            finite number within the limits; names the prompt.
    """
    things = "responses" if len(texts) == 1 else "pairs of responses"
    try:
        returned = function(prompts, *texts, metadata)
    except Exception as error:
        where = _culprit(function, prompts, texts, metadata)
        raise RewardError(f"{who} raised {type(error).__name__}: {error}{where}") from error
    values = _values(returned)
    if values is None:
        raise RewardError(
            f"{who} returned {short_text(repr(returned))} for {len(prompts)} {things}; it must "
            f"return a list of one float for each. The first prompt was {short_text(prompts[0])}."
        )
    if len(values) != len(prompts):
        raise RewardError(
            f"{who} returned {len(values)} values for {len(prompts)} {things}; it must return one "
            f"float for each. The first prompt was {short_text(prompts[0])}."
        )
    limits = "" if math.isinf(low) and math.isinf(high) else f" between {low:g} and {high:g}"
    for row, value in enumerate(values):
        if not _is_finite(value) or not low <= float(value) <= high:
            raise RewardError(
                f"{who} returned {value!r} where a finite number{limits} is needed, for "
                f"{_named(prompts, texts, row)}."
            )
    return [float(value) for value in values]


def short_text(text: str) -> str:
    """Return a text quoted for a message, its end cut off when it is long."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def _culprit(
    function: Function, prompts: list[str], texts: Sequence[list[str]], metadata: list[Any]
) -> str:
    """Find the single item that makes the function raise, for the message."""
    for row, (prompt, extra) in enumerate(zip(prompts, metadata, strict=True)):
        try:
            function([prompt], *([column[row]] for column in texts), [extra])
        except Exception:
            return f", for {_named(prompts, texts, row)}."
    return f", for this batch of {len(prompts)} but for none of its responses alone."


def _named(prompts: list[str], texts: Sequence[list[str]], row: int) -> str:
    said = " and ".join(short_text(column[row]) for column in texts)
    word = "response" if len(texts) == 1 else "responses"
    return f"the prompt {short_text(prompts[row])} and the {word} {said}"


def _values(returned: Any) -> list[Any] | None:
    """Return what a function returned as a list, or None when it is no sequence of values."""
    if isinstance(returned, (str, bytes, Mapping)):
        return None
    try:
        return list(returned)
    except TypeError:
        return None


def _is_finite(value: Any) -> bool:
    # "1.5" is not a number, although float() takes it for one.
    if isinstance(value, (str, bytes)):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
