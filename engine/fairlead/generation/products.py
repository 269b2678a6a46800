"""Products of a recorded decoding step: which library multiplies, and how weights lie for it.

Weights in float32 are laid out in panels for `packed_linear`, those in bfloat16 as oneDNN likes
them; torch multiplies whatever neither takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx

from fairlead.generation.constants import constants
from fairlead.generation.rewrite import kernel_of
from fairlead_kernels import pack_weight, packed_linear

Layout = Literal["panels", "onednn"]

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.addmm.default, _ATEN.mm.default)


def use_fast_products(graph: fx.Graph, weights: int) -> None:
    """Have products with the weights made the fastest way there is; weights become ``[out, in]``.

    Args:
        graph: A recorded step.
        weights: How many of its first placeholders are weights.
    """
    constant = constants(graph, weights)
    # Of our own the operation itself: a recording can launch it without its checks.
    own: Callable[..., Tensor] = torch.ops.fairlead_kernels.packed_linear.default
    multiply_panels = kernel_of("packed_linear", own, packed_linear)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _PRODUCTS or node.kwargs:
            continue
        *bias, rows, weight = node.args
        if weight not in constant or rows in constant or len(bias) > 1:
            continue
        inputs_first = weight.meta["val"]
        layout = _layout(inputs_first.dtype, multiply_panels is not None)
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


def _layout(dtype: torch.dtype, panels: bool) -> Layout | None:
    """Return how weights of a type are laid out; None for one that is left to the recording."""
    if dtype == torch.float32:
        return "panels" if panels else None
    onednn = torch.ops.mkldnn
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(onednn, "_linear_pointwise")
    if dtype == torch.bfloat16 and has_onednn and onednn._is_mkldnn_bf16_supported():
        return "onednn"
    return None


def lay_out(weight: Tensor, layout: Layout) -> Tensor:
    """Return a weight ``[out, in]`` laid out, for the product that goes with the layout."""
    if layout == "panels":
        return pack_weight(weight)
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return laid_out


def product(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """Return ``rows @ weight.T + bias``, and GPT-2's GELU of it where asked.

    Args:
        rows: ``[B, in]``.
        weight: ``[out, in]``, laid out for oneDNN.
        bias: ``[out]``.
        gelu: Whether it follows.
    """
    then: tuple[Any, ...] = ("gelu", [], "tanh") if gelu else ("none", [], "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *then)
    return result


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
