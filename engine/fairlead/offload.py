"""What a step of the RL stage needs for a part of it only is kept off the device meanwhile.

The weights of frozen models lie in the CPU's memory and are copied to the device for each of their
phases; they have not changed by its end, so nothing is copied back. An optimizer's moments, which
change, are copied both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

CPU = torch.device("cpu")

Visitor = nn.Module | Optimizer
"""A model whose weights stay as they are, or an optimizer: what may be off the device."""


def take_off(visitor: Visitor) -> None:
    """Keep a visitor's tensors in the CPU's memory from now on."""
    for tensor in _tensors(visitor):
        tensor.data = _copy(tensor.data, CPU)


@contextmanager
def visiting(device: torch.device, visitors: tuple[Visitor, ...]) -> Iterator[None]:
    """Have what was taken off on the device for as long as this lasts."""
    models = [one for one in visitors if isinstance(one, nn.Module)]
    at_home = [(tensor, tensor.data) for model in models for tensor in _tensors(model)]
    try:
        for tensor in [one for visitor in visitors for one in _tensors(visitor)]:
            tensor.data = _copy(tensor.data, device)
        yield
    finally:
        for tensor, kept in at_home:
            tensor.data = kept
        for visitor in visitors:
            if isinstance(visitor, Optimizer):
                take_off(visitor)  # moments that a first step has made within, too


def _tensors(visitor: Visitor) -> list[Tensor]:
    if isinstance(visitor, Optimizer):
        state = [one for entry in visitor.state.values() for one in entry.values()]
        # Counts of steps are single numbers, and some optimizers want them on the CPU.
        return [one for one in state if isinstance(one, Tensor) and one.dim() > 0]
    return [*visitor.parameters(), *visitor.buffers()]


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)
