"""Learning rates, the optimizer step, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fairlead.config import Config, Spec
from fairlead.errors import NonFiniteError


class LearningRate(Config):
    """A learning-rate schedule over the steps of a stage.

    Attributes:
        peak: The highest rate.
        shape: ``cosine`` falls from the peak at the first step after the warm-up to
            ``final`` times the peak at the last one; ``constant`` stays.
        final: Share of the peak a cosine ends at; the paper's 10 %.
        warmup: Steps of linear warm-up; step ``warmup + 1`` has the full rate.
        warmup_from: Share of the peak the warm-up starts at.
    """

    peak: float = Field(gt=0)
    shape: Literal["constant", "cosine"] = "cosine"
    final: float = Field(default=0.1, ge=0, le=1)
    warmup: int = Field(default=0, ge=0)
    warmup_from: float = Field(default=0.1, ge=0, le=1)

    def at(self, step: int, total: int) -> float:
        """Return the rate of a step, counted from 1, of ``total``."""
        if step <= self.warmup:
            start = self.warmup_from
            return self.peak * (start + (1 - start) * (step - 1) / self.warmup)
        if self.shape == "constant":
            return self.peak
        progress = (step - self.warmup - 1) / max(1, total - self.warmup - 1)
        return self.peak * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)


class Updater:
    """One model's optimizer step: clip, check, set the rate, step, clear.

    Args:
        model: The model; its trainable parameters are updated.
        optimizer: Which optimizer.
        lr: The schedule.
        clip: Largest gradient norm; None leaves gradients as they are.
    """

    def __init__(
        self, model: nn.Module, optimizer: Spec, lr: LearningRate, clip: float | None
    ) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer: torch.optim.Optimizer = optimizer.build()(named)
        self.lr = lr
        self.clip = clip
        # A group may run at a multiple of the schedule (Muon beside AdamW, say).
        self._scales = [group["lr"] for group in self.optimizer.param_groups]

    def check(self, step: int) -> float:
        """Return the gradients' norm.

        Raises:
            NonFiniteError: When it is NaN or infinite.
        """
        norm = float(torch.nn.utils.get_total_norm(self._gradients()))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"the gradient norm of step {step} is {norm}; the step was not taken. Lower the "
                "learning rate, clip gradients (clip), or look at the data of this step."
            )
        return norm

    def step(self, step: int, total: int) -> dict[str, float]:
        """Take one step with the gradients there are; returns ``lr`` and ``grad_norm``.

        Raises:
            NonFiniteError: When a gradient is NaN or infinite; nothing is updated then.
        """
        norm = self.check(step)
        if self.clip is not None and norm > self.clip:
            for gradient in self._gradients():
                gradient.mul_(self.clip / norm)
        rate = self.lr.at(step, total)
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = rate * scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"lr": rate, "grad_norm": norm}

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]


class WeightAverage:
    """An exponential moving average of a model's trainable weights, in float32.

    ``average = decay * average + (1 - decay) * weights`` (paper, appendix C.4: 0.992). It
    starts at the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.average = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now."""
        current = [parameter.float() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.values()), current, 1.0 - self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by parameter name."""
        return self.average

    def numbers(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take up saved averages."""
        for name, tensor in self.average.items():
            tensor.copy_(tensors[name])


def check_finite(value: float, what: str, step: int) -> float:
    """Return the value, or raise NonFiniteError naming the loss and the step."""
    if not math.isfinite(value):
        raise NonFiniteError(
            f"{what} of step {step} is {value}; its gradient was not used. The last checkpoint is "
            "kept. Lower the learning rate, or look at the data of this step."
        )
    return value
