"""Where models run: the one seam for devices, precision and, later, several ranks.

Today there is a single device. DDP and FSDP2 under ``torchrun`` take the same methods: what
a stage calls here is all it knows of ranks.
"""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import nn

from fairlead.attention import use_xformers
from fairlead.errors import ConfigError
from fairlead.offload import Visitor, take_off, visiting
from fairlead.recompute import use_recomputation
from fairlead_kernels import xformers_missing

WHERE_GIVEN = "device=NAME to a training command, --device NAME to others"

_LOG = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Strategy(Protocol):
    """What a stage may ask of the machine it runs on."""

    device: torch.device

    def place(self, model: ModuleT, *, trained: bool) -> ModuleT:
        """Move a model to its device and dtype; a frozen one also stops tracking gradients."""
        ...

    def autocast(self) -> AbstractContextManager[object]:
        """The precision context of every forward pass of a trained model."""
        ...

    def set_aside(self, *visitors: Visitor) -> None:
        """Take frozen models or optimizers off the device, until `at_hand`, if the run asks so."""
        ...

    def at_hand(self, *visitors: Visitor) -> AbstractContextManager[object]:
        """Have on the device, for as long as this lasts, what was set aside."""
        ...

    def sum(self, value: float) -> float:
        """Add a number over all ranks: token counts, metric sums and their weights."""
        ...


class SingleDevice:
    """One process, one CPU or GPU.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``float32`` or ``bfloat16`` (see `fairlead.config.RunConfig`).
        attention: ``auto``, the model's own choice, or ``xformers``.
        gradient_checkpointing: Trained models compute activations again in the backward pass.
        offload: What is set aside is kept in the CPU's memory, unless that is the device's.

    Raises:
        ConfigError: When there is no such device, or xformers is asked for, which needs a GPU.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "float32",
        attention: str = "auto",
        gradient_checkpointing: bool = False,
        offload: bool = False,
    ) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ConfigError(
                f"there is no device {device!r}: give auto, cpu, cuda or cuda:N, as {WHERE_GIVEN}."
            )
        available = torch.cuda.is_available()
        if device.startswith("cuda") and not available:
            raise ConfigError(
                f"the device {device} was asked for, and torch sees no GPU here. Give cpu or auto, "
                f"as {WHERE_GIVEN}; or install a CUDA build of torch."
            )
        chosen = ("cuda" if available else "cpu") if device == "auto" else device
        self.device = torch.device(chosen)
        self.half = precision == "bfloat16"
        if self.half and self.device.type == "cpu":
            _warn_of_slow_bfloat16()
        self.gradient_checkpointing = gradient_checkpointing
        self.offload = offload and self.device.type != "cpu"
        self.xformers = attention == "xformers"
        if self.xformers:
            missing = xformers_missing()
            if missing is None and self.device.type != "cuda":
                missing = "this run is on the CPU, and xformers has no CPU path"
            if missing is not None:
                raise ConfigError(
                    f"attention=xformers was asked for: {missing}. Use attention=auto, or what "
                    "it needs."
                )

    def place(self, model: ModuleT, *, trained: bool) -> ModuleT:
        """Trained models keep float32 weights; frozen ones are held in the run's precision."""
        if self.xformers:
            use_xformers(model)
        if trained and self.gradient_checkpointing:
            use_recomputation(model)
        if not trained:
            model.requires_grad_(False).eval()
            if self.half:
                model.to(torch.bfloat16)  # before the move: half the memory there
        return model.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast to bfloat16 where the run asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def set_aside(self, *visitors: Visitor) -> None:
        """Keep them in the CPU's memory, where the run offloads and its device is another."""
        if self.offload:
            for one in visitors:
                take_off(one)

    def at_hand(self, *visitors: Visitor) -> AbstractContextManager[object]:
        """Copy to the device what was set aside; what is there already stays there."""
        return visiting(self.device, visitors) if self.offload else nullcontext()

    def sum(self, value: float) -> float:
        """Return the value: there is one rank."""
        return value


@cache
def _warn_of_slow_bfloat16() -> None:
    """Say once that bfloat16 costs time on this CPU, where it does."""
    onednn = torch.backends.mkldnn.is_available()
    if onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    _LOG.warning(
        "precision=bfloat16 on a processor that torch has no fast products for in it: they take "
        "many times as long as in float32. Use precision=float32, or a GPU."
    )
