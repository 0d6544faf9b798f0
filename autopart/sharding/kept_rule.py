"""The rule of a module that is kept whole: none of its dims may be sharded, and samples may stay apart."""

from autopart.ir.graph import Graph, Node
from autopart.ir.kept import is_samplewise
from autopart.sharding.rule import Letters, Rule


def kept_rule(node: Node, graph: Graph) -> Rule | None:
    """A rule without letters for a module that treats every sample by itself; none for one that mixes them."""
    if not is_samplewise(node):
        return None

    def unknown(shape: tuple[object, ...]) -> Letters:
        return (None,) * len(shape)

    inputs = tuple(unknown(graph.values[name].shape) for name in node.inputs)
    return Rule(inputs, tuple(unknown(value.shape) for value in node.outputs))
