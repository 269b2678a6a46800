"""Decoding steps that are repeated on memory that stays; CUDA graphs are in tests/gpu."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generating import as_it_is, respond, rows
from hypothesis import given
from hypothesis import strategies as st
from support import FAMILIES, save_causal
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fairlead.generation import recorded
from fairlead.generation.bound import Arena, BoundStep, Plan
from fairlead.generation.graphs import Drawn, RepeatedStep, filled_up
from fairlead.generation.recorded import fastest_step
from fairlead.models import load_causal
from fairlead.strategy import SingleDevice

CPU = torch.device("cpu")


@given(rows=st.integers(1, 2000), more=st.integers(0, 2000))
def test_rows_are_filled_up_to_a_power_of_two_or_to_all_slots(rows: int, more: int) -> None:
    slots = rows + more
    filled = filled_up(rows, slots)
    assert rows <= filled <= slots
    assert filled < 2 * rows
    assert filled == slots or filled.bit_count() == 1


class Counting:
    """A step that draws 10 t + p and u, and what was asked of it: by Python, and captured."""

    def __init__(self) -> None:
        self.run: list[list[int]] = []
        self.captured: list[int] = []

    def __call__(self, tokens: Tensor, positions: Tensor, uniform: Tensor) -> Drawn:
        self.run.append(positions.tolist())
        return 10 * tokens + positions, uniform

    def capture(self, tokens: Tensor, positions: Tensor, uniform: Tensor) -> Any:
        self.captured.append(len(tokens))
        graph = make_fx(lambda t, p: 10 * t + p)(tokens, positions).graph
        bound = BoundStep(Plan(graph), (tokens, positions), Arena())
        bound.then(lambda sums, numbers: [sums.clone(), numbers.clone()], uniform)
        return bound

    def repeated(self, slots: int, warm: bool = False) -> RepeatedStep:
        return RepeatedStep(self, slots, CPU, self.capture, "it", warm)


def ask(step: RepeatedStep, *tokens: int) -> list[int]:
    """What is drawn for tokens that are each at their own number's position: 11 t."""
    given = torch.tensor(tokens)
    answer, uniform = step(given, given, given.double() / 100)
    assert uniform.tolist() == (given.double() / 100).tolist()
    result: list[int] = answer.tolist()
    return result


def test_a_number_of_rows_is_captured_once_for_all_that_are_filled_up_to_it() -> None:
    counting = Counting()
    step = counting.repeated(6)
    assert ask(step, 1, 2, 3) == [11, 22, 33]
    assert ask(step, 4, 5) == [44, 55]
    assert ask(step, 6, 7, 8, 9) == [66, 77, 88, 99]
    assert ask(step, 9, 8, 7) == [99, 88, 77]
    assert ask(step, 5) == [55]
    assert ask(step, 5, 4) == [55, 44]
    assert ask(step, 1, 3, 5, 7, 9) == [11, 33, 55, 77, 99]
    assert ask(step, 2, 4, 6, 8, 1, 3) == [22, 44, 66, 88, 11, 33]
    assert counting.captured == [4, 2, 1, 6]
    assert counting.run == []


def test_where_it_has_to_be_warm_a_number_of_rows_is_run_before_it_is_captured() -> None:
    counting = Counting()
    step = counting.repeated(6, warm=True)
    assert ask(step, 1, 2, 3) == [11, 22, 33]
    assert ask(step, 4, 5) == [44, 55]
    assert counting.captured == []
    assert ask(step, 6, 7, 8, 9) == [66, 77, 88, 99]
    assert counting.captured == [4]
    assert ask(step, 3, 2, 1) == [33, 22, 11]
    assert ask(step, 5, 4) == [55, 44]
    assert counting.captured == [4, 2]
    assert len(counting.run) == 2


def test_rows_that_fill_up_attend_to_one_position_alone() -> None:
    counting = Counting()
    step = counting.repeated(6, warm=True)
    assert ask(step, 9, 9, 9, 9, 9) == [99] * 5
    assert ask(step, 7, 6, 5) == [77, 66, 55]
    assert counting.run == [[9, 9, 9, 9, 9, 0], [7, 6, 5, 0]]


def test_what_cannot_be_captured_is_run_as_it_is_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def capture(tokens: Tensor, *_: Tensor) -> Any:
        tried.append(len(tokens))
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    step = RepeatedStep(Counting(), 4, CPU, capture, "Some", warm=False)
    for tokens in ([1, 2], [3, 4], [5, 6], [7], [8], [9]):
        assert ask(step, *tokens) == [11 * one for one in tokens]
    (line,) = (one.getMessage() for one in caplog.records)
    assert line == (
        "decoding Some without capturing its steps, which is slower: "
        "operation not permitted when stream is capturing"
    )
    assert tried == [2]


@pytest.fixture
def captured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[list[int]]:
    """The rows of each step that is bound while the native backend generates, without a warning.

    The first are those that a recording is compared with the model by.
    """
    recorded._KEPT.clear()
    found: list[int] = []

    class Noted(BoundStep):
        def __init__(self, plan: Any, inputs: Any, arena: Any) -> None:
            super().__init__(plan, inputs, arena)
            found.append(len(self.result))

    monkeypatch.setattr("fairlead.generation.step.BoundStep", Noted)
    yield found
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_bound_and_generates_what_the_model_does(
    tmp_path: Path, captured: list[int], family: str
) -> None:
    directory = save_causal(tmp_path, family, initializer_range=0.3)
    model: Any = load_causal(str(directory), SingleDevice("cpu"), trained=True)
    assert rows(respond(model)) == as_it_is(model)
    assert captured == [8, 8]


def each_bound(model: Any, cache: Any, temperature: float, record: bool) -> Any:
    """A recorded step that is bound anew each time, and never repeated."""
    step: Any = fastest_step(model, cache, temperature, record)
    return lambda *given: step._capture(*given).result


def test_bfloat16_is_bound_too(
    tmp_path: Path, captured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = SingleDevice("cpu", "bfloat16")
    directory = save_causal(tmp_path, initializer_range=0.3)
    model: Any = load_causal(str(directory), strategy, trained=True)
    with strategy.autocast():
        found = rows(respond(model))
        assert captured == [8, 8]
        monkeypatch.setattr("fairlead.generation.native.fastest_step", each_bound)
        assert rows(respond(model)) == found


def test_rows_that_end_and_rows_that_come_are_bound_anew(
    tmp_path: Path, captured: list[int]
) -> None:
    """Five slots for eight prompts whose responses end at random."""
    directory = save_causal(tmp_path, initializer_range=0.3)
    model: Any = load_causal(str(directory), SingleDevice("cpu"), trained=True)
    ended: Any = {"slots": 5, "stop_token_ids": tuple(range(4)), "max_new_tokens": 30}
    found = rows(respond(model, **ended))
    assert found == as_it_is(model, **ended)
    assert len({len(one) for one in found}) > 3
    assert len(set(captured[1:])) == len(captured[1:]) > 1
