"""A Python function as the reward: what it is given, and what it may not return."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from support import context

from fairlead.components import RewardBatch
from fairlead.errors import ConfigError, RewardError
from fairlead.records import Prompt, Turn
from fairlead_plugins.rewards.function import FunctionConfig, FunctionReward

MODULE = '''
"""Reward functions, good and bad."""
import numpy, torch

GIVEN = []

def length(prompts, responses, metadata):
    GIVEN.append((prompts, responses, metadata))
    return [float(len(response)) for response in responses]

def tensor(prompts, responses, metadata):
    return torch.arange(len(prompts))

def array(prompts, responses, metadata):
    return numpy.arange(len(prompts))

def raises(prompts, responses, metadata):
    if "bad" in responses:
        raise KeyError("nothing for bad")
    return [0.0] * len(prompts)

def raises_on_batches(prompts, responses, metadata):
    if len(prompts) > 1:
        raise ValueError("only one")
    return [0.0]

def short(prompts, responses, metadata):
    return [0.0]

def nan(prompts, responses, metadata):
    return [float("nan") if r == "bad" else 1.0 for r in responses]

def infinite(prompts, responses, metadata):
    return [float("inf") if r == "bad" else 1.0 for r in responses]

def none(prompts, responses, metadata):
    return [None if r == "bad" else 1.0 for r in responses]

def text(prompts, responses, metadata):
    return ["1.5" if r == "bad" else 1.0 for r in responses]

def pairs(prompts, responses, metadata):
    return [torch.ones(2) if r == "bad" else 1.0 for r in responses]

def huge(prompts, responses, metadata):
    return [10 ** 400 if r == "bad" else 1.0 for r in responses]

def one_number(prompts, responses, metadata):
    return 1.0

def a_word(prompts, responses, metadata):
    return "abc"

def a_mapping(prompts, responses, metadata):
    return {prompt: 1.0 for prompt in prompts}

NOT_A_FUNCTION = 3
'''


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(MODULE)
    return path


def reward(reference: str, root: Path) -> FunctionReward:
    return FunctionReward(FunctionConfig(function=reference), context(root), None)


def batch() -> RewardBatch:
    prompts = [
        Prompt(turns=(Turn("user", text),), metadata={"row": row})
        for row, text in enumerate(("one", "two", "three"))
    ]
    lengths = torch.ones(3, dtype=torch.int64)
    tokens = torch.zeros(3, 2, dtype=torch.int64)
    return RewardBatch(tokens, lengths, lengths, prompts, ["good", "bad", "fine"])


def test_it_is_given_prompts_responses_and_metadata(functions: Path, tmp_path: Path) -> None:
    made = reward(f"{functions}:length", tmp_path)
    assert made.score(batch()).total.tolist() == [4.0, 3.0, 4.0]
    (given,) = made.function.__globals__["GIVEN"]  # type: ignore[attr-defined]
    assert given == (
        ["one", "two", "three"],
        ["good", "bad", "fine"],
        [{"row": 0}, {"row": 1}, {"row": 2}],
    )


def test_a_function_of_a_module(
    functions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(functions.parent))
    assert reward("functions:length", tmp_path).score(batch()).total.tolist() == [4.0, 3.0, 4.0]


@pytest.mark.parametrize("name", ["tensor", "array"])
def test_tensors_and_arrays_are_sequences_too(functions: Path, tmp_path: Path, name: str) -> None:
    found = reward(f"{functions}:{name}", tmp_path).score(batch()).total
    assert found.dtype == torch.float32
    assert found.tolist() == numpy.arange(3).tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "raised KeyError: 'nothing for bad', for the prompt 'two' and the response 'b"),
        ("raises_on_batches", "raised ValueError: only one, for this batch of 3 but for none of"),
        ("short", "returned 1 values for 3 responses; it must return one float for each. The fi"),
        ("nan", "returned nan where a finite number is needed, for the prompt 'two'"),
        ("infinite", "returned inf where a finite number is needed, for the prompt 'two'"),
        ("none", "returned None where a finite number is needed, for the prompt 'two'"),
        ("text", "returned '1.5' where a finite number is needed, for the prompt 'two'"),
        ("pairs", "where a finite number is needed, for the prompt 'two'"),
        ("huge", "where a finite number is needed, for the prompt 'two'"),
        ("one_number", "returned '1.0' for 3 responses; it must return a list"),
        ("a_word", "for 3 responses; it must return a list"),
        ("a_mapping", "for 3 responses; it must return a list"),
    ],
)
def test_a_bad_return_is_an_error_that_names_the_prompt(
    functions: Path, tmp_path: Path, name: str, message: str
) -> None:
    """Issue 2, Rewards: raising, the wrong number of values, NaN; exit code 3."""
    with pytest.raises(RewardError) as caught:
        reward(f"{functions}:{name}", tmp_path).score(batch())
    assert f"the reward function {functions}:{name}" in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("length", "give path/to/file.py:function or package.module:function"),
        ("nowhere.py:length", "FileNotFoundError"),
        ("no.such.module:length", "ModuleNotFoundError"),
        ("{file}:missing", "AttributeError"),
        ("{file}:NOT_A_FUNCTION", "is a int, not a function"),
    ],
)
def test_a_function_that_is_not_there_is_a_configuration_error(
    functions: Path, tmp_path: Path, reference: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reward(reference.format(file=functions), tmp_path)


def test_a_file_that_raises_when_imported_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('not today')")
    with pytest.raises(ConfigError, match="RuntimeError: not today"):
        reward(f"{path}:length", tmp_path)
