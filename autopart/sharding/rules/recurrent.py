"""Recurrent layers as one op: samples are free; time, features and gates stay whole."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule


def layer(node: Node, graph: Graph) -> Rule | None:
    """lstm, gru, rnn: (x, states, parameters, biases, layers, dropout, train, bidirectional, batch first)."""
    states, parameters = node.args[1], node.args[2]
    if not isinstance(parameters, tuple) or len(graph.values[node.inputs[0]].shape) != 3:
        return None
    count = len(states) if isinstance(states, tuple) else 1
    first = node.args[8] is True
    x: Letters = ("n", "T", "F") if first else ("T", "n", "F")
    output: Letters = ("n", "T", None) if first else ("T", "n", None)
    state: Letters = (None, "n", None)
    weights = tuple((None,) * len(graph.values[name].shape) for name in node.inputs[1 + count :])
    dropout, training = node.args[5], node.args[6]
    random = isinstance(dropout, float) and dropout > 0 and training is True
    sources = (x, *((state,) * count), *weights)
    return Rule(sources, (output, *((state,) * count)), whole=frozenset({"T", "F"}), random=random)


def cell(node: Node, graph: Graph) -> Rule | None:
    """One step: (x, state or states, input weights, state weights, biases)."""
    states = len(node.args[1]) if isinstance(node.args[1], tuple) else 1
    if len(graph.values[node.inputs[0]].shape) != 2:
        return None
    weights = tuple((None,) * len(graph.values[name].shape) for name in node.inputs[1 + states :])
    row: Letters = ("n", None)
    return Rule((("n", "F"), *((row,) * states), *weights), (row,) * len(node.outputs), whole=frozenset({"F"}))


RULES = {f"aten.{name}.input": layer for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")} | {
    f"aten.{name}_cell.default": cell for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
