"""By-products: what an op returns besides its result, for its backward pass alone."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node

WITH_BY_PRODUCTS = ("aten.embedding_bag.padding_idx",)


def without_by_products(graph: Graph) -> Graph:
    """`graph` with such ops as nodes of one output, where nothing takes another."""
    return replace(graph, nodes=tuple(_result_alone(node, graph) for node in graph.nodes))


def _result_alone(node: Node, graph: Graph) -> Node:
    if node.op not in WITH_BY_PRODUCTS:
        return node
    besides = {value.name for value in node.outputs[1:]}
    taken = any(graph.consumers[name] for name in besides) or not besides.isdisjoint(graph.leaving)
    return node if taken else replace(node, outputs=node.outputs[:1])
