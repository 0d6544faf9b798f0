"""Separable: whether a part of the batch gives its part of a result, or its term of a sum, by the letters of a rule."""

import sympy

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.size import Size, is_batched
from autopart.sharding.rule import Rule
from autopart.sharding.rules import elementwise, reshape

# Ops of which a number among the arguments is computed with; of others it is a size.
NUMERICAL = frozenset(elementwise.RULES) | {"aten.full.default", "aten.new_full.default", "aten.scalar_tensor.default"}
# Ops that scale one of their inputs by the others: a sum over samples stays one.
SCALED = {"aten.mul.Tensor": (0, 1), "aten.div.Tensor": (0,)}
# Take of a tensor its dtype and device alone, no value.
NEW = frozenset(f"aten.new_{name}.default" for name in ("empty", "full", "ones", "zeros"))
ZEROS = frozenset({"aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default"})


def letters_separate(node: Node, graph: Graph, rule: Rule | None, inherited: frozenset[str], spreads: bool) -> bool:
    """Whether `node` leaves every sample by itself, or adds up what samples give.

    `inherited` are its inputs that are sums over samples; `spreads` says whether an output has samples as a dim.
    """
    if node.op in (ENTER, LEAVE):
        return True
    if rule is None or any(_batch_dims(value.shape) > 1 for value in node.outputs):
        return False
    for dims, name in zip(rule.inputs, node.inputs, strict=True):
        for letter, size in zip(dims, graph.values[name].shape, strict=True):
            if letter in rule.whole and is_batched(size) and node.op not in reshape.RULES:  # of these, order tells
                return False
    if not inherited:
        return True
    partial = {index for index, name in enumerate(node.inputs) if name in inherited}
    nothing = {index for index, name in enumerate(node.inputs) if is_zero(graph, name)}
    scaled = len(partial) == 1 and partial.issubset(SCALED.get(node.op, ()))
    return not spreads and (scaled or partial <= rule.linear <= partial | nothing)


def counts_samples(node: Node) -> bool:
    """Whether the number of samples is computed with."""
    return node.op in NUMERICAL and any(is_batched(arg) for arg in node.args if isinstance(arg, sympy.Expr))


def reads_samples(node: Node) -> bool:
    """Whether values of batched inputs, or how many there are, matter to the node."""
    return node.op not in NEW or counts_samples(node)


def is_zero(graph: Graph, name: str) -> bool:
    """Whether `name` is made as zeros."""
    if name not in graph.producer:
        return False
    node = graph.nodes[graph.producer[name]]
    return node.op in ZEROS or (node.op == "aten.full.default" and node.args[1] == 0)


def _batch_dims(shape: tuple[Size, ...]) -> int:
    return sum(is_batched(size) for size in shape)


def has_batch(shape: tuple[Size, ...]) -> bool:
    """Whether samples are a dim, or in one."""
    return _batch_dims(shape) > 0
