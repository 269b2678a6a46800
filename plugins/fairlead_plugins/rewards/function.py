"""A Python function as a reward."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fairlead.components import RewardBatch, Scores
from fairlead.config import Config
from fairlead.errors import ConfigError, RewardError
from fairlead.stages import StageContext

Function = Callable[..., Sequence[float]]


class FunctionConfig(Config):
    """Settings of `FunctionReward`.

    Attributes:
        function: ``path/to/file.py:function`` or ``package.module:function``. It is called
            as ``function(prompts, responses, metadata)`` with a list of texts each and a
            list of the records' metadata, and returns one float a response.
    """

    function: str


class FunctionReward:
    """Scores decoded text with a function of the user's.

    Raises:
        ConfigError: When the function cannot be found or imported.
    """

    Config = FunctionConfig

    def __init__(self, config: FunctionConfig, context: StageContext, tokenizer: Any) -> None:
        self.name = config.function
        self.function = load_function(config.function)

    def score(self, batch: RewardBatch) -> Scores:
        """Return the function's numbers.

        Raises:
            RewardError: When it raises, returns another number of values, or a value that
                is not a finite number; names the prompt.
        """
        prompts = [prompt.prompt_text for prompt in batch.prompts]
        responses = list(batch.responses)
        metadata = [dict(prompt.metadata) for prompt in batch.prompts]
        try:
            returned = self.function(prompts, responses, metadata)
        except Exception as error:
            where = self._culprit(prompts, responses, metadata)
            raise RewardError(
                f"the reward function {self.name} raised {type(error).__name__}: {error}{where}"
            ) from error
        values = _values(returned)
        if values is None:
            raise RewardError(
                f"the reward function {self.name} returned {_short(repr(returned))} for "
                f"{len(prompts)} responses; it must return a list of one float for each. The "
                f"first prompt was {_short(prompts[0])}."
            )
        if len(values) != len(prompts):
            raise RewardError(
                f"the reward function {self.name} returned {len(values)} values for "
                f"{len(prompts)} responses; it must return one float for each. The first prompt "
                f"was {_short(prompts[0])}."
            )
        for value, prompt, response in zip(values, prompts, responses, strict=True):
            if not _is_finite(value):
                raise RewardError(
                    f"the reward function {self.name} returned {value!r} where a finite number is "
                    f"needed, for the prompt {_short(prompt)} and the response {_short(response)}."
                )
        return Scores(torch.tensor([float(value) for value in values]))

    def _culprit(self, prompts: list[str], responses: list[str], metadata: list[Any]) -> str:
        """Find the single response that makes the function raise, for the message."""
        for prompt, response, extra in zip(prompts, responses, metadata, strict=True):
            try:
                self.function([prompt], [response], [extra])
            except Exception:
                return f", for the prompt {_short(prompt)} and the response {_short(response)}."
        return f", for this batch of {len(prompts)} but for none of its responses alone."


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


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
