"""Measurements taken before, while and after a model trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from torch import nn

from fairlead.config import Spec
from fairlead.stages import StageContext

if TYPE_CHECKING:
    from fairlead.session import Session


class Measure:
    """A stage's own measurements and its evaluators, taken every so many steps.

    Args:
        evaluators: Which evaluators.
        every: Steps between measurements, not always a whole number (an epoch's are not); the
            start and the last step are always measured.
        total: Steps in all.
        context: The stage's context.
        tokenizer: The model's tokenizer.
    """

    def __init__(
        self,
        evaluators: Sequence[Spec],
        every: int | Fraction,
        total: int,
        context: StageContext,
        tokenizer: Any,
    ) -> None:
        self.evaluators = [spec.build(context, tokenizer) for spec in evaluators]
        self.every = every
        self.total = total
        self.own: list[Callable[[], Mapping[str, float]]] = []
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def add(self, measure: Callable[[], Mapping[str, float]]) -> None:
        """Add measurements of the stage's own; NaN means there is nothing to measure."""
        self.own.append(measure)

    def before(self, model: nn.Module, session: Session) -> None:
        """Measure the untrained model, unless a resumed run did so before."""
        if session.begun_at == 0:
            self.first = self.now(model, 0)
            if self.first:
                session.log(0, self.first)

    def after(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure when this step is due; else return nothing."""
        due = step // self.every > (step - 1) // self.every or step == self.total
        return self.now(model, step) if due else {}

    def now(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure."""
        found: dict[str, float] = {}
        for measure in self.own:
            found.update(measure())
        for evaluator in self.evaluators:
            found.update(evaluator.evaluate(model, step))
        self.last = {name: value for name, value in found.items() if not math.isnan(value)}
        return self.last

    def summary(self) -> dict[str, float]:
        """Return ``NAME_start`` and ``NAME_end``, or ``NAME`` for what the start has not."""
        found: dict[str, float] = {}
        for name, value in self.last.items():
            short = name.replace("loss/heldout", "heldout_loss").removeprefix("eval/")
            if name in self.first:
                found |= {f"{short}_start": self.first[name], f"{short}_end": value}
            else:
                found[short] = value
        return found

    def state(self) -> dict[str, float]:
        """Return the first and the last measurements."""
        both = {"first": self.first, "last": self.last}
        return {f"{when}/{name}": v for when, found in both.items() for name, v in found.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take them up."""
        self.first, self.last = (
            {name.removeprefix(when): v for name, v in state.items() if name.startswith(when)}
            for when in ("first/", "last/")
        )
