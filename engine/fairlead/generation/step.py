"""One decoding step of a model: a token for each live sequence in, logits out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fairlead.generation.attend import decoding
from fairlead.generation.bound import Arena, BoundStep, Plan
from fairlead.generation.cache import SlotCache
from fairlead.generation.constants import constants
from fairlead.generation.products import use_fast_products
from fairlead.generation.rewrite import add_within_norm, leave_out_idle, store_within_attention


def eager_logits(
    model: Any,
    cache: SlotCache,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    tokens: Tensor,
    positions: Tensor,
) -> Tensor:
    """Run the model on one token a row, ``[B, V]``.

    Args:
        model: A causal language model that attends with `attend`.
        cache: Whose layers are used.
        keys: What they hold, ``[B, Hkv, S, D]`` a layer.
        values: Likewise.
        tokens: ``[B]`` int64.
        positions: ``[B]`` int64, where those tokens are.
    """
    inputs = {
        "input_ids": tokens[:, None],
        "position_ids": positions[:, None],
        "past_key_values": cache.decoding(keys, values, positions),
        "use_cache": True,
    }
    with decoding(positions + 1):
        if getattr(model, "_plain_head", False):
            hidden = model.base_model(**inputs).last_hidden_state[:, 0]
            plain: Tensor = model.get_output_embeddings()(hidden)
            return plain
        logits: Tensor = model(**inputs).logits[:, 0]
        return logits


def prompt_logits(model: Any, cache: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Run the model on prompts, and return the logits after each one's last token, ``[B, V]``."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    inputs = {
        "input_ids": tokens,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    last = (torch.arange(len(tokens), device=tokens.device), lengths - 1)
    if getattr(model, "_plain_head", False):
        plain: Tensor = model.get_output_embeddings()(
            model.base_model(**inputs).last_hidden_state[last]
        )
        return plain
    logits: Tensor = model(**inputs).logits[last]
    return logits


class Recording:
    """A decoding step on a CPU, recorded as a flat list of torch operations.

    A model's forward pass in Python costs as much as its arithmetic when a step has few rows. It
    is recorded once, with any number of rows and positions. What depends on the weights alone
    (transposes, casts to bfloat16, the layout that a matrix product likes best) is put apart and
    done once for each batch of prompts: the weights may have been trained in between.

    Args:
        model: The model, attending with `attend`.
        cache: Any of its caches.

    Raises:
        Exception: Of any kind, when the model's forward pass cannot be recorded.
    """

    def __init__(self, model: Any, cache: SlotCache) -> None:
        weights = _weights(model)
        recorded = _record(model, cache, weights)
        use_fast_products(recorded.graph, len(weights))
        leave_out_idle(recorded.graph)
        store_within_attention(recorded.graph)
        add_within_norm(recorded.graph)
        before, after = _split(recorded.graph, len(weights))
        self._prepare = fx.GraphModule(recorded, before)
        self.graph, self._plan = after, Plan(after)

    def ready(self, model: Any) -> list[Tensor]:
        """Return what the step needs of the weights as they are now."""
        prepared: list[Tensor] = self._prepare(*_weights(model).values())
        return prepared

    def bind(
        self,
        prepared: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        tokens: Tensor,
        positions: Tensor,
        arena: Arena,
    ) -> BoundStep:
        """Do what `eager_logits` does, and return what does it again on the same memory.

        Args:
            prepared: As of `ready`.
            keys: As `eager_logits` takes them.
            values: Likewise.
            tokens: Likewise.
            positions: Likewise.
            arena: Holds what is computed.

        Raises:
            Exception: Of any kind, when an operation cannot be repeated so.
        """
        inputs = (*prepared, *keys, *values, tokens, positions)
        with torch.autocast(tokens.device.type, enabled=False):
            return BoundStep(self._plan, inputs, arena)


def _weights(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class _Call(torch.nn.Module):
    """`eager_logits` as a module's forward pass, so that its weights can be given from outside."""

    def __init__(self, model: Any, cache: SlotCache) -> None:
        super().__init__()
        self.model, self.cache = model, cache

    def forward(
        self, keys: list[Tensor], values: list[Tensor], tokens: Tensor, positions: Tensor
    ) -> Tensor:
        return eager_logits(self.model, self.cache, keys, values, tokens, positions)


def _record(model: Any, cache: SlotCache, weights: dict[str, Tensor]) -> fx.GraphModule:
    """Record the step with tensors that have shapes and no content."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    call = _Call(model, cache)
    names = [f"model.{name}" for name in weights]

    def step(
        given: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
        tokens: Tensor,
        positions: Tensor,
    ) -> Tensor:
        called = dict(zip(names, given, strict=True))
        logits: Tensor = torch.func.functional_call(call, called, (keys, values, tokens, positions))
        return logits

    # Rows and positions are variables, everything else is fixed.
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 2)
    grid = fake.from_tensor(torch.zeros(5, 7, dtype=torch.int64), symbolic_context=context)
    with fake:
        token, position = (
            torch.zeros(grid.shape[0], dtype=torch.int64, device=model.device) for _ in range(2)
        )
        layers = [
            torch.empty(
                (grid.shape[0], one.shape[1], grid.shape[1], one.shape[3]),
                dtype=one.dtype,
                device=model.device,
            )
            for one in (*cache.keys, *cache.values)
        ]
        keys, values = layers[: len(layers) // 2], layers[len(layers) // 2 :]
    given = [fake.from_tensor(one, static_shapes=True) for one in weights.values()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorded: fx.GraphModule = make_fx(step, tracing_mode="symbolic")(
            given, keys, values, token, position
        )
    return recorded


def _split(recorded: fx.Graph, weights: int) -> tuple[fx.Graph, fx.Graph]:
    """Split a recording into what depends on the weights alone, and the rest."""
    nodes = list(recorded.nodes)
    constant = constants(recorded, weights)
    needed = [
        node
        for node in nodes
        if node in constant and any(user not in constant for user in node.users)
    ]
    before, after = fx.Graph(), fx.Graph()
    early: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in constant:
            early[node] = before.node_copy(node, lambda one: early[one])
    before.output([early[node] for node in needed])
    late = {node: after.placeholder(f"prepared_{node.name}") for node in needed}
    for node, given in late.items():
        given.meta.update(node.meta)
    for node in nodes:
        if node in constant:
            continue
        if node.op == "output":
            (result,) = torch.utils._pytree.tree_leaves(node.args)
            after.output(late[result])
        else:
            late[node] = after.node_copy(node, lambda one: late[one])
    return before, after
