"""A last layer that goes on with some positions alone once it has attended.

Of the last hidden states some are asked for: those that predict a response token, or a sequence's
last. The other positions give them keys and values, and nothing that the last layer computes for
them after that is ever read: not the projection behind attention, not the feed-forward network. In
a model of few layers that is much of the arithmetic, forward and backward.

transformers hands layers a mask and nothing else of our own, so what a row of many sequences is
made of is told in the mask's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from fairlead.recompute import recast

_PARTS = "_fairlead_parts"
"""Of a layer that goes on with some positions: the names of two modules in it, its first and the
one that attention's result goes through."""


def tell(offsets: Tensor, longest: int, kept: Tensor) -> Tensor:
    """Return what stands in the mask's place for a row of many sequences.

    Args:
        offsets: ``[B + 1]`` int64, where sequences begin, as of `ragged_attention`.
        longest: Length of the longest.
        kept: ``[M]`` int64, the positions that go on after the last attention; none for all.

    Returns:
        ``[1, B + 1, longest, B + 1 + M]`` int64, of which ``B + 1 + M`` numbers are in memory.
    """
    return torch.cat([offsets, kept]).expand(1, len(offsets), longest, -1)


def heard(told: Tensor) -> tuple[Tensor, int, Tensor]:
    """Return offsets, longest and kept positions of what `tell` returned."""
    return told[0, 0, 0, : told.shape[1]], told.shape[2], told[0, 0, 0, told.shape[1] :]


def is_told(mask: Any) -> bool:
    """Whether something in the mask's place is what `tell` returns."""
    return isinstance(mask, Tensor) and mask.dtype == torch.int64 and mask.ndim == 4


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows of ``[1, N, H]`` as ``[1, M, H]``.

    Args:
        rows: Any dtype.
        index: ``[M]`` int64, without repetitions.
    """
    taken: Tensor = _Take.apply(rows, index)  # type: ignore[no-untyped-call]
    return taken


class _Take(torch.autograd.Function):
    # Torch's own gradient of an index adds up what may be repeated, row by row.
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = rows.shape[1]
        return rows.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _put(grad, index, ctx.rows), None


def _put(rows: Tensor, index: Tensor, among: int) -> Tensor:
    """Return ``[1, M, H]`` as ``[1, N, H]`` with zeros between."""
    return rows.new_zeros(1, among, rows.shape[2]).index_copy_(1, index, rows)


@cache  # one class a kind: recordings of decoding steps are told apart by it
def _going_on(kind: Any) -> Any:
    """Return a layer's class, but that it goes on with the positions it is told."""
    plain = kind.forward

    def forward(self: Any, *args: Any, **more: Any) -> Any:
        """Run the layer; positions that are not kept come out as zeros."""
        told = next((one for one in (*args, *more.values()) if is_told(one)), None)
        kept = None if told is None else heard(told)[2]
        if kept is None or not len(kept):
            return plain(self, *args, **more)
        hidden, *rest = args
        with _parts_take(self, hidden, kept):
            result = plain(self, take(hidden, kept), *rest, **more)
        if isinstance(result, tuple):
            return (_put(result[0], kept, hidden.shape[1]), *result[1:])
        return _put(result, kept, hidden.shape[1])

    return type(kind.__name__, (kind,), {"forward": forward})


@contextmanager
def _parts_take(layer: Any, hidden: Tensor, kept: Tensor) -> Iterator[None]:
    """Give attention all positions, and take from its result those that are kept."""
    first, project = (layer.get_submodule(name) for name in getattr(layer, _PARTS))
    hooks = [
        first.register_forward_pre_hook(lambda _, given: (hidden, *given[1:])),
        project.register_forward_pre_hook(lambda _, given: (take(given[0], kept), *given[1:])),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def use_last_layer(model: Any, name: str, attend: Callable[..., Any]) -> Callable[[], None] | None:
    """Let a model's last layer go on with some positions; which is told with each pass.

    Whether the model computes the same then is for the caller to try: some families use what comes
    first in a layer for more than attention.

    Args:
        model: A transformers model.
        name: What its attention function is registered as.
        attend: That function.

    Returns:
        What undoes it; None where there is no such layer.
    """
    events = _watched(model, name, attend)
    called = [module for module, _ in events]
    attended = [i for i, (_, attends) in enumerate(events) if attends]
    layer = _layer_around(model, called[attended[-1]]) if attended else None
    if layer is None:
        return None
    names = {module: name for name, module in layer.named_modules()}
    follow = (called.index(layer), attended[-1])
    parts = [names.get(module) for i in follow for module in called[i + 1 : i + 2]]
    if None in parts:
        return None
    kind = type(layer)
    setattr(layer, _PARTS, tuple(parts))
    recast(layer, _going_on)

    def undo() -> None:
        layer.__class__ = kind
        delattr(layer, _PARTS)

    return undo


@torch.no_grad()
def _watched(model: Any, name: str, attend: Callable[..., Any]) -> list[tuple[nn.Module, bool]]:
    """Return what a model calls, in order: its modules, and with True its attention's again."""
    events: list[tuple[nn.Module, bool]] = []

    def noting(module: nn.Module, *args: Any, **more: Any) -> Any:
        events.append((module, True))
        return attend(module, *args, **more)

    def enter(module: nn.Module, _: Any) -> None:
        events.append((module, False))

    hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
    AttentionInterface.register(name, noting)
    try:
        model.base_model(
            input_ids=torch.zeros(1, 2, dtype=torch.int64, device=model.device), use_cache=False
        )
    finally:
        AttentionInterface.register(name, attend)
        for hook in hooks:
            hook.remove()
    return events


def _layer_around(model: Any, module: nn.Module) -> Any:
    """Return the member of the model's list of layers that a module is in, or None."""
    path = next(name for name, one in model.named_modules() if one is module).split(".")
    for i in range(1, len(path)):
        if isinstance(model.get_submodule(".".join(path[:i])), nn.ModuleList):
            return model.get_submodule(".".join(path[: i + 1]))
    return None
