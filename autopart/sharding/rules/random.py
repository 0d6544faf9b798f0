"""Random ops: a number an element, a channel or a draw; ranks that share the work draw different ones."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import lettered
from autopart.sharding.rule import Rule
from autopart.sharding.rules.elementwise import elementwise


def drawn(node: Node, graph: Graph) -> Rule:
    """A number an element."""
    return replace(elementwise(node, graph), random=True)


def two_outputs(node: Node, graph: Graph) -> Rule:
    """`native_dropout`: the values and the mask."""
    rule = drawn(node, graph)
    return replace(rule, outputs=rule.outputs * 2)


def channels(node: Node, graph: Graph) -> Rule:
    """Dropout of whole channels (samples, channels, positions...): positions share one number."""
    rank = len(node.output.shape)
    letters = lettered(rank, range(2, rank))
    return Rule((letters,), (letters,), whole=frozenset(letters[2:]), random=True)


def multinomial(node: Node, graph: Graph) -> Rule:
    """(weights, number of draws, replacement): each row of weights is drawn from by itself."""
    rows = lettered(len(node.output.shape) - 1, ())
    return Rule(((*rows, "C"),), ((*rows, None),), whole=frozenset({"C"}), random=True)


ELEMENTS = {
    "default": """
        dropout alpha_dropout rand_like randn_like randint_like bernoulli rrelu uniform exponential poisson cauchy
        geometric log_normal _standard_gamma
    """,
    "p": "bernoulli",
    "Tensor": "bernoulli",
    "Tensor_Tensor": "normal",
    "Tensor_float": "normal",
    "float_Tensor": "normal",
}

RULES = {f"aten.{name}.{overload}": drawn for overload, names in ELEMENTS.items() for name in names.split()} | {
    "aten.normal_functional.default": drawn,
    "aten.native_dropout.default": two_outputs,
    "aten.feature_dropout.default": channels,
    "aten.feature_alpha_dropout.default": channels,
    "aten.multinomial.default": multinomial,
}
