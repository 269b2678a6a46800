"""Gradient checkpointing: a layer's activations are computed again in the backward pass, not kept.

transformers' own switch does it in training mode alone, in which a layer also drops the cache that
it generates with. The RL stage trains in evaluation mode and generates with the same model, so the
layers are told here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from fairlead.errors import ConfigError

_RECOMPUTES = "_fairlead_recomputes"
"""Of a class made here: the class whose forward pass is run again."""

_CACHES = ("past_key_values", "layer_past")


def use_recomputation(model: Any) -> None:
    """Have a model's layers keep their inputs alone for the backward pass.

    The layers hold the same parameters under the same names, and compute the same.

    Raises:
        ConfigError: When transformers does not know of layers in it that may be run twice.
    """
    # What a ScalarModel wraps, or the model itself.
    inner = model if hasattr(model, "config") else getattr(model, "model", model)
    layers = [one for one in inner.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers or not getattr(inner, "supports_gradient_checkpointing", False):
        raise ConfigError(
            f"gradient_checkpointing=true: {type(inner).__name__} has no layers that transformers "
            "lets one compute again. Set gradient_checkpointing=false; where memory is short, "
            "lower token_budget."
        )
    for layer in layers:
        kind: Any = type(layer)
        layer.__class__ = _recomputed(kind)


@cache  # one class a kind: recordings of decoding steps are told apart by it
def _recomputed(kind: Any) -> Any:
    """Return a layer's class, but that its forward pass is run again for the gradients."""
    plain = kind.forward

    def forward(self: nn.Module, *args: Any, **more: Any) -> Any:
        """Run the layer; with a gradient to come, keep nothing of what is computed within."""
        # A cache would take in the same keys twice.
        if not torch.is_grad_enabled() or any(more.get(name) is not None for name in _CACHES):
            return plain(self, *args, **more)
        # In training mode the second run is to drop what the first one dropped.
        return checkpoint(
            partial(plain, self, **more),
            *args,
            use_reentrant=False,
            preserve_rng_state=self.training,
        )

    return type(kind.__name__, (kind,), {"forward": forward, _RECOMPUTES: kind})


def recast(layer: nn.Module, change: Callable[[Any], Any]) -> None:
    """Give a layer another class of the same parameters, so that recomputation runs that.

    Args:
        layer: Any module.
        change: From its class to the other.
    """
    kind = type(layer)
    inner = kind.__dict__.get(_RECOMPUTES)
    layer.__class__ = change(kind) if inner is None else _recomputed(change(inner))
