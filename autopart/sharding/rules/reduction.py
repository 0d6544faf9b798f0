"""Reductions: a summed dim leaves a partial sum; a maximum, a norm or a product needs the dim whole."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule

WITHOUT_DIMS = ("all", "any", "max", "mean", "min", "prod", "std", "sum", "var")  # whose overload `default` takes none


def _reduced(node: Node, rank: int) -> frozenset[int]:
    """The dims that are reduced; none named means all."""
    _, name, overload = node.op.split(".")
    argument = node.arg(2 if name == "linalg_vector_norm" else 1, "dim")
    if argument is None or argument == () or (overload == "default" and name in WITHOUT_DIMS):
        return frozenset(range(rank))
    listed = argument if isinstance(argument, tuple) else (argument,)
    return frozenset(dim % rank for dim in listed if isinstance(dim, int) and rank)


def whole(node: Node, graph: Graph) -> Rule | None:
    """Reductions that are not sums."""
    shape, result = graph.values[node.inputs[0]].shape, node.output.shape
    letters = tuple(f"d{dim}" for dim in range(len(shape)))
    reduced = _reduced(node, len(shape))
    kept: Letters = tuple(None if dim in reduced else letter for dim, letter in enumerate(letters))
    output = kept if len(result) == len(shape) else tuple(letter for letter in kept if letter)
    if len(output) != len(result):
        return None
    names = frozenset(letters[dim] for dim in reduced)
    return Rule((letters,), (output,) * len(node.outputs), whole=names)


def summed(node: Node, graph: Graph) -> Rule | None:
    """sum: contracted dims leave partial sums, and partial sums pass through."""
    rule = whole(node, graph)
    summable = graph.values[node.inputs[0]].dtype != "bool"
    return rule and replace(rule, whole=frozenset(), linear=frozenset({0}) if summable else frozenset())


def averaged(node: Node, graph: Graph) -> Rule | None:
    """mean: like a sum, divided by the whole size."""
    rule = summed(node, graph)
    return rule and replace(rule, mean=True)


NOT_SUMS = {
    "default": "all amax amin any argmax argmin linalg_vector_norm logsumexp max min prod std var",
    "dim": "all any max min std var",
    "dims": "all any",
    "dim_int": "prod",
    "correction": "std var",
}

RULES = {f"aten.{name}.{overload}": whole for overload, names in NOT_SUMS.items() for name in names.split()} | {
    "aten.sum.default": summed,
    "aten.sum.dim_IntList": summed,
    "aten.mean.default": averaged,
    "aten.mean.dim": averaged,
}
