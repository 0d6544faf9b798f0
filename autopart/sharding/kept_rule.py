"""The rule of what is kept whole: samples may stay apart; only an elementwise function has dims that may be sharded."""

from string import ascii_lowercase

from autopart.ir.graph import Graph, Node
from autopart.ir.kept import is_elementwise, is_samplewise
from autopart.sharding.rule import Letters, Rule


def kept_rule(node: Node, graph: Graph) -> Rule | None:
    """A letter for every dim if it is elementwise, no letters if samples stay apart; no rule if it mixes them."""
    if not is_samplewise(node):
        return None

    def letters(shape: tuple[object, ...]) -> Letters:
        return tuple(ascii_lowercase[: len(shape)]) if is_elementwise(node) else (None,) * len(shape)

    inputs = tuple(letters(graph.values[name].shape) for name in node.inputs)
    return Rule(inputs, tuple(letters(value.shape) for value in node.outputs))
