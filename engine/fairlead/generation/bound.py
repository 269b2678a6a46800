"""A recorded decoding step bound to memory that stays: what a CUDA graph is, on a CPU.

Views are made once, results are written where they were the last time, and kernels are called with
the addresses they had. What is left of a step of few rows is its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fairlead.generation.rewrite import owner
from fairlead_kernels import Launch, launch_of, noted_launches


class Arena:
    """Memory for what a step computes on the way, used again once nothing needs it.

    Steps that are not run at the same time can share one.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a block, and a tensor in it with the content, shape and strides of another."""
        size = like.untyped_storage().nbytes()
        fitting = [one for one in self._free if len(one) >= size]
        block = min(fitting, key=len) if fitting else torch.empty(size, dtype=torch.uint8)
        self._free = [one for one in self._free if one is not block]
        inside = torch.empty(0, dtype=like.dtype)
        place = (like.storage_offset(), like.shape, like.stride())
        inside.set_(block.untyped_storage(), *place)
        return block, inside.copy_(like)

    def give_back(self, block: Tensor) -> None:
        """Take a block back that is used no more."""
        self._free.append(block)


@dataclass(frozen=True)
class _Operation:
    """What of an operation is the same wherever it is bound.

    Attributes:
        node: Its place in the graph.
        function: What is called.
        owner: The node whose memory its value is in.
        given: The nodes whose memory its inputs are in.
        unused: Those whose memory nothing needs after it.
        mutates: Whether it writes into memory that there is, and returns that.
        by_row: Whether its values have a row for each of the step's.
        variant: What writes its values where it is told to, or None.
        names: How `variant` calls these places.
    """

    node: fx.Node
    function: Any
    owner: fx.Node
    given: tuple[fx.Node, ...]
    unused: tuple[fx.Node, ...]
    mutates: bool
    by_row: bool
    variant: Any
    names: tuple[str, ...]


class Plan:
    """A recorded step, looked through once for all the times that it is bound.

    Args:
        graph: The step; its last input has as many rows as there are, and it returns one tensor.
    """

    def __init__(self, graph: fx.Graph) -> None:
        *_, last_input = (node for node in graph.nodes if node.op == "placeholder")
        last: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            for used in (node, *node.all_input_nodes):
                last[owner(used)] = node
        unused: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            unused.setdefault(node, []).append(used)
        self.operations = [
            _Operation(
                node,
                node.target,
                owner(node),
                tuple(owner(one) for one in node.all_input_nodes),
                tuple(unused.get(node, ())),
                owner(node) is not node and _mutates(node),
                bool(_lengths(node)) and _lengths(node) == _lengths(last_input),
                *_out_variant(node),
            )
            for node in graph.nodes
        ]


class BoundStep:
    """A recorded step on the memory of its inputs, run once to be bound.

    It can be run for the first rows alone: our kernels then compute those, and what there is
    besides computes all.

    Args:
        plan: The step; rows do not depend on one another.
        inputs: One a placeholder. What is in them may change from run to run; they may not.
        arena: Holds what is computed. What is bound or run next that shares it overwrites that.

    Attributes:
        result: What the step returns, of all rows: of the last run, always the same tensor.

    Raises:
        Exception: Of any kind, where an operation cannot be repeated so.
    """

    result: Any

    def __init__(self, plan: Plan, inputs: Sequence[Tensor], arena: Arena) -> None:
        self._rows = self._bound_rows = len(inputs[-1])
        # From a number of rows to a call.
        self._parts: list[Callable[[int], Callable[[], Any]]] = []
        # Kernels are called with addresses alone, which keep no memory.
        self._memory = list(inputs)
        values: dict[fx.Node, Any] = {}
        blocks: dict[fx.Node, list[Tensor]] = {}
        places: dict[fx.Node, set[int]] = {}
        given = iter(inputs)
        for one in plan.operations:
            node, function = one.node, one.function
            if node.op == "placeholder":
                values[node] = next(given)
                places[node] = _places([values[node]])
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                self.result = args[0]
            elif one.owner is not node:
                values[node] = function(*args, **kwargs)
                if one.mutates:
                    self._parts.append(_whole(partial(function, *args, **kwargs)))
            else:
                theirs = set().union(*(places[used] for used in one.given))
                values[node], blocks[node] = self._compute(one, args, kwargs, theirs, arena)
                self._memory += blocks[node]
                places[node] = _places(_tensors(values[node]))
            for unused in one.unused:
                for block in blocks.pop(unused, ()):
                    arena.give_back(block)
        self._calls = [part(self._rows) for part in self._parts]

    def run(self, rows: int) -> Any:
        """Repeat the step for the first rows; returns `result`."""
        if rows != self._rows:
            self._calls = [part(rows) for part in self._parts]
            self._rows = rows
        # Casts were recorded; none is to be added.
        casts = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if casts else nullcontext():
            for call in self._calls:
                call()
        return self.result

    def then(self, function: Callable[..., Sequence[Tensor]], *more: Any) -> None:
        """Have something computed from the result as well, now and in each run, and returned.

        Args:
            function: From the result and `more` to new tensors, row by row.
            *more: Its other arguments, tensors as the inputs are.
        """
        args = (self.result, *more)
        self._memory += _tensors(args)
        compute, self.result, launches = _run(function, args, {})
        made = _tensors(self.result)
        parts = _launched(launches, made, made, _places(_tensors(args)), self._bound_rows)
        parts = parts or [_whole(partial(_copied, compute, made))]
        self._parts += parts
        self._calls += [part(self._rows) for part in parts]

    def _compute(
        self, operation: _Operation, args: Any, kwargs: Any, given: set[int], arena: Arena
    ) -> tuple[Any, list[Tensor]]:
        """Return an operation's value in memory that stays, and that memory."""
        compute, value, launches = _run(operation.function, args, kwargs)
        made = _tensors(value)
        if not made:
            if _mutates(operation.node):
                self._parts.append(_whole(compute))
            return value, []
        if isinstance(value, (list, tuple)) and len(made) != len(value):
            raise RuntimeError(f"{operation.function} returns more than tensors")
        if not given.isdisjoint(_places(made)):
            raise RuntimeError(f"{operation.function} returns memory that it was given")
        blocks, kept = zip(*(arena.take(one) for one in made), strict=True)
        rows = self._bound_rows if operation.by_row else 0
        parts = _launched(launches, made, kept, given, rows)
        if not parts and operation.variant is not None:
            places = dict(zip(operation.names, kept, strict=True))
            parts = [_whole(partial(operation.variant, *args, **kwargs, **places))]
        self._parts += parts or [_whole(partial(_copied, compute, kept))]
        return (kept[0] if isinstance(value, Tensor) else list(kept)), list(blocks)


def _run(function: Any, args: Any, kwargs: Any) -> tuple[Callable[[], Any], Any, list[Launch]]:
    """Run an operation; returns how, its value, and the kernels that it is made of.

    Of an operation that is not our own kernels may be a part of what it does: there are none.
    """
    launch = launch_of(function, args)
    compute = partial(launch or function, *args, **kwargs)
    with noted_launches() as launches:
        value = compute()
    return compute, value, launches if launch else []


def _whole(call: Callable[[], Any]) -> Callable[[int], Callable[[], Any]]:
    """Return a part of a step that is of all rows however many are asked for."""
    return lambda _: call


def _launched(
    launches: Sequence[Launch],
    made: Sequence[Tensor],
    kept: Sequence[Tensor],
    given: set[int],
    rows: int,
) -> list[Callable[[int], Callable[[], Any]]]:
    """Return the kernels of an operation on memory that stays; none where they are not all of it.

    Args:
        launches: As they were made.
        made: What they wrote to.
        kept: Where it is to be.
        given: Places of the operation's inputs.
        rows: How many its values have; 0 where these are no rows of the step.
    """
    instead = {id(old): new for old, new in zip(made, kept, strict=True)}
    moved = [[instead.get(id(arg), arg) for arg in one.args] for one in launches]
    theirs = _places([arg for args in moved for arg in args if isinstance(arg, Tensor)])
    written = _places(kept)
    if not written <= theirs <= written | given:
        return []
    return [one.bound(args, rows) for one, args in zip(launches, moved, strict=True)]


def _out_variant(node: fx.Node) -> tuple[Any, tuple[str, ...]]:
    """Return the operation that writes its values where it is told to, and its names of these."""
    schema = _schema(node)
    if schema is None:
        return None, ()
    wanted = [(one.name, str(one.type)) for one in schema.arguments]
    packet: Any = node.target.overloadpacket  # type: ignore[union-attr]
    for name in packet.overloads():
        variant = getattr(packet, name)
        arguments = variant._schema.arguments
        found = [(one.name, str(one.type)) for one in arguments if not one.is_out]
        if found == wanted and len(arguments) > len(found):
            return variant, tuple(one.name for one in arguments if one.is_out)
    return None, ()


def _lengths(node: fx.Node) -> set[str]:
    """Return how long a node's values are, as far as it was recorded."""
    values = node.meta.get("val")
    several = values if isinstance(values, (list, tuple)) else [values]
    return {str(one.shape[:1]) for one in several if isinstance(one, Tensor)}


def _mutates(node: fx.Node) -> bool:
    return bool(getattr(_schema(node), "is_mutable", False))


def _schema(node: fx.Node) -> Any:
    return getattr(node.target, "_schema", None)


def _copied(compute: Callable[[], Any], kept: Sequence[Tensor]) -> None:
    for one, new in zip(kept, _tensors(compute()), strict=True):
        one.copy_(new)


def _tensors(value: Any) -> list[Tensor]:
    """Return those of an operation's results."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in several if isinstance(one, Tensor)]


def _places(tensors: Sequence[Tensor]) -> set[int]:
    """Return where tensors have their memory, however they see it."""
    plain = (one for one in tensors if not one.is_mkldnn)  # those do not say
    return {one.untyped_storage().data_ptr() for one in plain}
