"""What of a recorded decoding step depends on the weights alone."""

from __future__ import annotations

from torch import fx


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
