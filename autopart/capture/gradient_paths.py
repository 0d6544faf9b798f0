"""Gradient paths: which values the loss depends on in a way that has a derivative."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node, Value


def without_lost_gradients(graph: Graph) -> Graph:
    """`graph`, in which values whose gradient never comes have none: as of weights whose results are detached.

    One process leaves the `grad` of such weights None, so that no optimizer changes them; nor would weight decay.
    """
    if graph.loss is None or not graph.values[graph.loss].requires_grad:
        return graph
    reached = {graph.loss}
    for node in reversed(graph.nodes):
        if any(value.requires_grad and value.name in reached for value in node.outputs):
            reached.update(name for name in node.inputs if graph.values[name].requires_grad)
    if all(value.name in reached for value in graph.values.values() if value.requires_grad):
        return graph

    def kept(value: Value) -> Value:
        return value if value.name in reached else replace(value, requires_grad=False)

    def own(node: Node) -> Node:
        return replace(node, outputs=tuple(map(kept, node.outputs)))

    parameters = tuple(replace(item, value=kept(item.value)) for item in graph.parameters)
    return replace(graph, parameters=parameters, nodes=tuple(map(own, graph.nodes)))
