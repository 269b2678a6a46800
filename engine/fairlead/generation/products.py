"""Products of a recorded decoding step: which library multiplies, and how weights lie for it.

Weights in float32 are laid out in panels for `packed_linear`, other ones as oneDNN likes them.
Torch itself multiplies a single float32 row on Intel's processors, whose library is the faster one
there; and whatever neither takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairlead.generation.constants import constants
from fairlead.linear import torch_is_fast
from fairlead_kernels import list_implementations, pack_weight, packed_linear

Layout = Literal["panels", "onednn", "plain"]

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.addmm.default, _ATEN.mm.default)


def use_fast_products(graph: fx.Graph, weights: int, single: bool) -> None:
    """Have products with the weights made the fastest way there is; weights become ``[out, in]``.

    Args:
        graph: A recorded step.
        weights: How many of its first placeholders are weights.
        single: Whether it will have one row.
    """
    constant = constants(graph, weights)
    multiply_panels = _multiply_panels()
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _PRODUCTS or node.kwargs:
            continue
        *bias, rows, weight = node.args
        if weight not in constant or rows in constant or len(bias) > 1:
            continue
        inputs_first = weight.meta["val"]
        layout = _layout(inputs_first.dtype, single, multiply_panels is not None)
        if layout is None:
            continue
        outputs = inputs_first.shape[1]
        if bias and bias[0].meta["val"].shape != (outputs,):  # one that is spread out
            continue
        gelu = _gelu_after(node)
        with graph.inserting_before(node):
            outwards = graph.call_function(_ATEN.t.default, (weight,))
            laid_out = graph.call_function(lay_out, (outwards, layout))
            more = (bias[0] if bias else None, gelu is not None)
            if layout == "panels" and multiply_panels is not None:
                laid_out.meta["val"] = lay_out(inputs_first.t(), layout)
                fast = graph.call_function(multiply_panels, (rows, laid_out, outputs, *more))
            else:
                fast = graph.call_function(product, (rows, laid_out, *more))
        fast.meta.update(node.meta)
        node.replace_all_uses_with(fast)
        graph.erase_node(node)
        if gelu:
            gelu.replace_all_uses_with(gelu.all_input_nodes[0])
            graph.erase_node(gelu)


def _layout(dtype: torch.dtype, single: bool, panels: bool) -> Layout | None:
    """Return how weights of a type are laid out; None for one that is left to the recording."""
    onednn = torch.ops.mkldnn
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(onednn, "_linear_pointwise")
    if dtype == torch.float32:
        if panels:
            return "panels"
        return "plain" if single else ("onednn" if has_onednn else None)
    if dtype == torch.bfloat16 and has_onednn and onednn._is_mkldnn_bf16_supported():
        return "onednn"
    return None


def _multiply_panels() -> Callable[..., Tensor] | None:
    """Return what multiplies weights in panels on this machine's CPU; None where torch is better.

    That is on Intel's processors, and where there is the reference alone.
    """
    rows = list_implementations()
    at_hand = [row for row in rows if row.op == "packed_linear" and row.device == "cpu"]
    (taken,) = (row.impl for row in at_hand if row.auto)
    if torch_is_fast() or taken == "reference":
        return None
    # Of our own the operation itself: a recording can launch it without its checks.
    own: Callable[..., Tensor] = torch.ops.fairlead_kernels.packed_linear.default
    return own if taken == "cpp" else packed_linear


def lay_out(weight: Tensor, layout: Layout) -> Tensor:
    """Return a weight ``[out, in]`` laid out, for the product that goes with the layout."""
    if layout == "panels":
        return pack_weight(weight)
    if layout == "plain":
        return weight
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return laid_out


def product(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """Return ``rows @ weight.T + bias``, and GPT-2's GELU of it where asked.

    Args:
        rows: ``[B, in]``.
        weight: ``[out, in]``, plain or laid out for oneDNN.
        bias: ``[out]``.
        gelu: Whether it follows.
    """
    if weight.is_mkldnn:
        then: tuple[Any, ...] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *then)
        return result
    plain = functional.linear(rows, weight, bias)
    return functional.gelu(plain, approximate="tanh") if gelu else plain


def _gelu_after(product: fx.Node) -> fx.Node | None:
    """Return the GELU that alone uses a product, itself or as another view."""
    node = product
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is _ATEN.gelu.default:
            return node if node.kwargs == {"approximate": "tanh"} else None
        if node.target is not _ATEN.view.default:
            return None
    return None
