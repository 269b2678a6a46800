"""Keeping the epoch that a measurement likes best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.errors import ConfigError


class BestWeights:
    """Holds the weights of the best epoch so far, on the CPU.

    Args:
        model: The model being trained.
        metric: The measurement to maximise; None keeps nothing and changes nothing.
    """

    def __init__(self, model: nn.Module, metric: str | None) -> None:
        self.model = model
        self.metric = metric
        self.value = -float("inf")
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    def consider(self, measured: Mapping[str, float], step: int) -> None:
        """Keep the weights when this epoch is the best so far.

        Raises:
            ConfigError: When an epoch was measured and the measurement is not there.
        """
        if self.metric is None or not measured:
            return
        if self.metric not in measured:
            raise ConfigError(
                f"select_by={self.metric!r}: no evaluator measures that; measured here: "
                f"{', '.join(sorted(measured))}."
            )
        if measured[self.metric] > self.value:
            self.value, self.step = measured[self.metric], step
            self.weights = {n: p.detach().cpu().clone() for n, p in self.model.named_parameters()}

    @torch.no_grad()
    def restore_into_model(self) -> None:
        """Put the best epoch's weights into the model; nothing when none was kept."""
        for name, parameter in self.model.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])

    def summary(self) -> dict[str, float]:
        """Return which step was selected, and by what value."""
        return {"selected_step": self.step, "selected_value": self.value} if self.weights else {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the kept weights."""
        return self.weights

    def numbers(self) -> dict[str, Any]:
        """Return the best value and its step."""
        return {"value": self.value if self.weights else None, "step": self.step}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.weights = dict(tensors)
        self.step = int(numbers["step"])
        self.value = -float("inf") if numbers["value"] is None else float(numbers["value"])
