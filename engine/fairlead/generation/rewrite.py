"""What is made better in a recorded decoding step: fewer operations, and some of several in one."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fairlead_kernels import (
    ImplementationRow,
    add_layer_norm,
    launch_of,
    list_implementations,
)

_ATEN = torch.ops.aten
_OURS = torch.ops.fairlead_kernels
_APPEND = _OURS.append_attention.default
_SHAPES = (_ATEN.view.default, _ATEN.unsqueeze.default)


def owner(node: Any) -> Any:
    """Return whose memory a node's result is in, through views and writes."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        shares = schema is not None and any(one.alias_info for one in schema.returns)
        if not shares and node.target is not operator.getitem:
            break
        node = node.args[0]
    return node


def leave_out_idle(graph: fx.Graph) -> None:
    """Leave out operations that change nothing: a step of few rows costs what their number costs.

    These are slices of everything, copies where nothing but the cache is written to, views of
    views, and views to the shape there is.
    """
    only_read = not any(_writes_into_own(node) for node in graph.nodes)
    for node in list(graph.nodes):
        if (
            node.target is _ATEN._unsafe_view.default
        ):  # unsafe for what is kept, gradients above all
            node.target = _ATEN.view.default
        if node.target is _ATEN.view.default:
            _shorten(graph, node)
            continue
        whole = node.target is _ATEN.slice.Tensor and node.args[2:] == (0, sys.maxsize)
        if whole or (only_read and _is_idle_copy(node)):
            _replace(graph, node, node.args[0])
    graph.eliminate_dead_code()


def store_within_attention(graph: fx.Graph) -> None:
    """Have attention store the new keys and values itself, where it is the kernel that can.

    Its caches are then those before the writes, and its lengths one more than the positions.
    """
    if any(_writes_into_own(node) for node in graph.nodes):
        return  # what is stored might be changed before attention
    for node in list(graph.nodes):
        if node.target is not _OURS.decode_attention.default:
            continue
        query, keys, values, lengths, scale = node.args
        new = [_stored(cache, lengths) for cache in (keys, values)]
        if None in new or keys is values:
            continue
        (key_cache, key), (value_cache, value) = new
        given = (query, key, value, key_cache, value_cache, lengths, scale)
        if not _takes(_APPEND, given):
            continue
        with graph.inserting_before(node):
            both = graph.call_function(_APPEND, given)
        both.meta.update(node.meta)
        _replace(graph, node, both)
        graph.erase_node(keys)
        graph.erase_node(values)
    graph.eliminate_dead_code()


def add_within_norm(graph: fx.Graph) -> None:
    """Have a layer's output added where the sum is normalised, if a kernel does both."""
    operation = kernel_of("add_layer_norm", _OURS.add_layer_norm.default, add_layer_norm)
    if operation is None or any(_writes_into_own(node) for node in graph.nodes):
        return
    for norm in list(graph.nodes):
        if norm.target is not _ATEN.native_layer_norm.default or norm.kwargs:
            continue
        seen, width, weight, bias, eps = norm.args
        # Some families normalise the rows of a sum that has a dimension more.
        other_shape = seen.target is _ATEN.view.default and seen.args[1][-1] == width[-1]
        total = seen.args[0] if other_shape else seen
        given = _summands(total)
        weights = [one for one in (weight, bias) if one is not None and one.op == "placeholder"]
        used = {one.target is operator.getitem and one.args[1] == 0 for one in norm.users}
        if given is None or len(width) != 1 or len(weights) != 2 or used != {True}:
            continue
        if any(one.meta["val"].dtype != total.meta["val"].dtype for one in weights):
            continue
        given = (*given, *weights, eps)
        if operation is not add_layer_norm and not _takes(operation, given):
            continue
        values = (total.meta["val"], total.meta["val"])
        with graph.inserting_before(total):
            both = graph.call_function(operation, given)
            both.meta["val"] = values
            parts = [graph.call_function(operator.getitem, (both, at)) for at in range(2)]
        for part, value in zip(parts, values, strict=True):
            part.meta["val"] = value
        normed = parts[1]
        if other_shape:
            with graph.inserting_before(norm):
                normed = graph.call_function(_ATEN.view.default, (normed, seen.args[1]))
            normed.meta["val"] = norm.meta["val"][0]
        for old in list(norm.users):
            _replace(graph, old, normed)
        graph.erase_node(norm)
        _replace(graph, total, parts[0])


def _summands(total: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two that a sum is of, where both are like it."""
    if total.target is not _ATEN.add.Tensor or total.kwargs:
        return None
    x, other = total.args
    if not (isinstance(x, fx.Node) and isinstance(other, fx.Node)):
        return None
    expected = total.meta["val"]
    for one in (x.meta.get("val"), other.meta.get("val")):
        if not isinstance(one, Tensor) or one.shape != expected.shape:
            return None
        if one.dtype != expected.dtype:
            return None
    return x, other


def kernel_of(
    operation: str, own: Callable[..., Any], public: Callable[..., Any]
) -> Callable[..., Any] | None:
    """Return what runs an operation on this machine's CPU; None for the reference.

    Args:
        operation: Its name.
        own: Its torch operation in native code: a recording can launch it without its checks.
        public: Its function, which a plugin's kernel is called by.
    """
    taken = next(row.impl for row in taken_kernels() if row.op == operation)
    return {"cpp": own, "reference": None}.get(taken, public)


def taken_kernels() -> list[ImplementationRow]:
    """Return what a recording would have: the implementation of each operation that is taken."""
    return [row for row in list_implementations() if row.auto and row.device == "cpu"]


def _stored(written: Any, lengths: Any) -> Any:
    """Return the cache and the new keys or values that alone were written, or None.

    Written was row b at its last position, and nothing looks at the cache but attention.
    """
    if written.target is not _ATEN.index_put_.default or len(written.args) != 3:
        return None
    cache, indices, new = written.args
    if len(indices) != 3 or [isinstance(one, fx.Node) for one in indices] != [True, False, True]:
        return None
    rows, _, at = indices
    readers = [one for one in cache.users if one.target is not _ATEN.sym_size.int]
    if cache.op != "placeholder" or readers != [written] or len(written.users) > 1:
        return None
    in_order = rows.target is _ATEN.arange.default
    every_row = in_order and rows.meta["val"].shape == at.meta["val"].shape
    last = lengths.target is _ATEN.add.Tensor and lengths.args == (at, 1) and not lengths.kwargs
    return (cache, new) if every_row and last else None


def _takes(operation: Any, args: Any) -> bool:
    """Whether an operation of `fairlead_kernels` takes arguments that are nodes."""
    given = fx.node.map_arg(args, lambda node: node.meta.get("val"))
    return launch_of(operation, given) is not None


def _is_idle_copy(node: fx.Node) -> bool:
    """Whether a copy is of what the step has made itself, and lies as that does."""
    if node.target is not _ATEN.clone.default or node.kwargs:
        return False
    source: Any = node.args[0]
    if source.meta["val"].stride() != node.meta["val"].stride():
        return False
    return bool(owner(source).op != "placeholder")


def _writes_into_own(node: fx.Node) -> bool:
    """Whether an operation writes into something that the step itself has made."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    written = [
        node.args[at]
        for at, one in enumerate(schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write and at < len(node.args)
    ]
    return any(owner(one).op != "placeholder" for one in written)


def _shorten(graph: fx.Graph, view: fx.Node) -> None:
    """Take a view of what an earlier view is of, or leave it out."""
    given: Any = view.args
    source, shape = given
    while source.target in _SHAPES:
        source = source.args[0]
    view.args = (source, shape)
    before = source.meta["val"].shape
    # Of two dimensions with one size in common, the other is the same too.
    if len(before) == len(shape) == 2 and shape[0] == -1 and shape[1] == before[1]:
        _replace(graph, view, source)


def _replace(graph: fx.Graph, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.erase_node(node)
