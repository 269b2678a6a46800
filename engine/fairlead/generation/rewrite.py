"""What is made better in a recorded decoding step: fewer operations, and faster products."""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairlead.linear import torch_is_fast
from fairlead_kernels import row_linear

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.addmm.default, _ATEN.mm.default)
_METHODS = {
    _ATEN.view.default: "view",
    _ATEN.transpose.int: "transpose",
    _ATEN.select.int: "select",
    _ATEN.unsqueeze.default: "unsqueeze",
    _ATEN.sym_size.int: "size",
    _ATEN.add.Tensor: "add",
    _ATEN.mul.Tensor: "mul",
    _ATEN.neg.default: "neg",
}
_SHAPES = (_ATEN.view.default, _ATEN.unsqueeze.default)


def constants(graph: fx.Graph, weights: int) -> set[fx.Node]:
    """Return the nodes that depend on the weights alone, which are the first placeholders."""
    constant = set([node for node in graph.nodes if node.op == "placeholder"][:weights])
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function"
            and node.all_input_nodes
            and constant.issuperset(node.all_input_nodes)
        ):
            constant.add(node)
    return constant


def use_fast_products(graph: fx.Graph, weights: int) -> None:
    """Have `product` multiply with the weights, where oneDNN can: they are then ``[out, in]``."""
    constant = constants(graph, weights)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _PRODUCTS or node.kwargs:
            continue
        *bias, rows, weight = node.args
        if weight not in constant or rows in constant or len(bias) > 1:
            continue
        made = weight.meta["val"]
        if not _can_be_packed(made.dtype):
            continue
        if bias and bias[0].meta["val"].shape != made.shape[1:]:  # one that is spread out
            continue
        gelu = _gelu_after(node)
        with graph.inserting_before(node):
            outwards = graph.call_function(_ATEN.t.default, (weight,))
            fast = graph.call_function(
                product, (rows, outwards, bias[0] if bias else None, gelu is not None)
            )
        fast.meta.update(node.meta)
        node.replace_all_uses_with(fast)
        graph.erase_node(node)
        if gelu:
            gelu.replace_all_uses_with(gelu.all_input_nodes[0])
            graph.erase_node(gelu)


def multiplied(graph: fx.Graph) -> set[Any]:
    """Return the weights of `use_fast_products`."""
    return {node.args[1] for node in graph.nodes if node.target is product}


def packed(weight: Tensor) -> Tensor:
    """Return a weight ``[out, in]`` laid out as oneDNN likes it best, for `product` alone."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return laid_out


def product(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """Return ``rows @ weight.T + bias``, and GPT-2's GELU of it where asked.

    Args:
        rows: ``[B, in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.
        gelu: Whether it follows.
    """
    if weight.is_mkldnn:
        then: tuple[Any, ...] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *then)
        return result
    # Of a single sequence a layer may still make several rows, one a head, say.
    one = rows.shape[0] == 1 and not torch_is_fast()
    multiply = row_linear if one else functional.linear
    plain: Tensor = multiply(rows, weight, bias)
    return functional.gelu(plain, approximate="tanh") if gelu else plain


def _can_be_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN lays out weights of a type: half precision takes newer CPUs than AVX2."""
    onednn = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(onednn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(onednn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


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


def leave_out_idle(graph: fx.Graph) -> None:
    """Leave out operations that change nothing: a step of few rows costs what their number costs.

    These are slices of everything, copies where nothing but the cache is written to, views of
    views, and views to the shape there is.
    """
    only_read = not any(_writes_into_own(node) for node in graph.nodes)
    for node in list(graph.nodes):
        if node.target is _ATEN.view.default:
            _shorten(graph, node)
            continue
        whole = node.target is _ATEN.slice.Tensor and node.args[2:] == (0, sys.maxsize)
        if whole or (only_read and _is_idle_copy(node)):
            _replace(graph, node, node.args[0])
    graph.eliminate_dead_code()


def call_directly(graph: fx.Graph) -> None:
    """Call tensors' own methods, which find their operation sooner than an overload of it does."""
    for node in graph.nodes:
        name = _METHODS.get(node.target)
        if node.op != "call_function" or not name or not isinstance(node.args[0], fx.Node):
            continue
        if isinstance(node.args[0].meta.get("val"), Tensor | None):  # no size, which has no methods
            node.op, node.target = "call_method", name


def _is_idle_copy(node: fx.Node) -> bool:
    """Whether a copy is of what the step has made itself, and lies as that does."""
    if node.target is not _ATEN.clone.default or node.kwargs:
        return False
    source: Any = node.args[0]
    if source.meta["val"].stride() != node.meta["val"].stride():
        return False
    return bool(_owner(source).op != "placeholder")


def _owner(node: Any) -> Any:
    """Return whose memory a node's result is in, through views and writes."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        shares = schema is not None and any(one.alias_info for one in schema.returns)
        if not shares and node.target is not operator.getitem:
            break
        node = node.args[0]
    return node


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
    return any(_owner(one).op != "placeholder" for one in written)


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
