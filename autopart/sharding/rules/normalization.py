"""Norms and softmax: the normalized dims stay whole, all others are free."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Rule


def trailing(node: Node, graph: Graph) -> Rule:
    """layer_norm and rms_norm: (x, normalized_shape, weight?, bias?)."""
    shape = graph.values[node.inputs[0]].shape
    normalized = node.args[1]
    count = len(normalized) if isinstance(normalized, tuple) else 1
    free = len(shape) - count
    letters = tuple(f"b{dim}" if dim < free else f"H{dim - free}" for dim in range(len(shape)))
    inputs = (letters, *((letters[free:],) * (len(node.inputs) - 1)))
    return Rule(inputs, (letters,), whole=frozenset(letters[free:]))


def group_norm(node: Node, graph: Graph) -> Rule:
    """(x, groups, weight?, bias?): samples are free; channels and positions are normalized together."""
    shape = graph.values[node.inputs[0]].shape
    letters = ("n", *(f"X{dim}" for dim in range(1, len(shape))))
    inputs = (letters, *((("X1",),) * (len(node.inputs) - 1)))
    return Rule(inputs, (letters,), whole=frozenset(letters[1:]))


def batch_norm(node: Node, graph: Graph) -> Rule | None:
    """(x, weight?, bias?, mean?, variance?, training, ...): in training samples are normalized together."""
    shape = graph.values[node.inputs[0]].shape
    training = node.arg(5, "training") is not False
    letters = tuple(f"d{dim}" for dim in range(len(shape)))
    if len(shape) < 2 or (training and any(arg is not None for arg in node.args[3:5])):
        return None  # running statistics would be updated
    whole = frozenset(letters) - {"d1"} if training else frozenset[str]()
    return Rule((letters, *((("d1",),) * (len(node.inputs) - 1))), (letters,), whole=whole)


def native_batch_norm(node: Node, graph: Graph) -> Rule | None:
    """The same with the mean and the inverse deviation of every channel beside the result."""
    rule = batch_norm(node, graph)
    return rule and replace(rule, outputs=(*rule.outputs, ("d1",), ("d1",)))


def along(node: Node, graph: Graph) -> Rule:
    """softmax, log_softmax, cumprod, sort: the dim of the second argument stays whole."""
    shape = graph.values[node.inputs[0]].shape
    dim = node.arg(1, "dim")
    letters = tuple(f"d{i}" for i in range(len(shape)))
    whole = frozenset({letters[dim % len(shape)]}) if isinstance(dim, int) and shape else frozenset(letters)
    return Rule((letters,), (letters,) * len(node.outputs), whole=whole)


def cumulated(node: Node, graph: Graph) -> Rule:
    """cumsum: along a dim, and linear."""
    rule = along(node, graph)
    return rule if graph.values[node.inputs[0]].dtype == "bool" else replace(rule, linear=frozenset({0}))


RULES = {
    "aten.layer_norm.default": trailing,
    "aten.rms_norm.default": trailing,
    "aten.group_norm.default": group_norm,
    "aten.batch_norm.default": batch_norm,
    "aten.native_batch_norm.default": native_batch_norm,
    "aten.softmax.int": along,
    "aten._softmax.default": along,
    "aten.log_softmax.int": along,
    "aten._log_softmax.default": along,
    "aten.cumsum.default": cumulated,
    "aten.cumprod.default": along,
}
