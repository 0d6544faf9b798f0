"""Reductions: a summed dim leaves a partial sum; a maximum, a norm or a product needs the dim whole."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import axis, lettered
from autopart.sharding.rule import Letters, Rule

SECOND = ("linalg_vector_norm", "linalg_norm", "linalg_matrix_norm", "kthvalue", "quantile")  # whose dim comes third
DEFAULTS = {"linalg_matrix_norm": (-2, -1), "median": -1, "nanmedian": -1, "kthvalue": -1, "mode": -1}
WITHOUT_DIMS = ("all", "any", "max", "mean", "min", "prod", "std", "sum", "var")  # whose overload `default` takes none


def _reduced(node: Node, rank: int) -> frozenset[int]:
    """The dims that are reduced; none named means all."""
    _, name, overload = node.op.split(".")
    argument = node.arg(2 if name in SECOND else 1, "dim", DEFAULTS.get(name))
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


def summed_up(node: Node, graph: Graph) -> Rule | None:
    """Sums of something else than the elements: contracted, not linear."""
    rule = summed(node, graph)
    return rule and replace(rule, linear=frozenset())


def alike(node: Node, graph: Graph) -> Rule:
    """cosine_similarity (a, b, dim), pairwise_distance (a, b, p, eps, keepdim): broadcast, and one dim reduced."""
    shapes = [graph.values[name].shape for name in node.inputs]
    rank = max(len(shape) for shape in shapes)
    sizes = [[shape[dim - rank] if len(shape) >= rank - dim else 1 for shape in shapes] for dim in range(rank)]
    distance = node.op == "aten.pairwise_distance.default"
    place = rank - 1 if distance else axis(node, rank, 2, 1)
    letters = lettered(rank, {place})
    inputs = []
    for shape in shapes:
        own = range(rank - len(shape), rank)
        inputs.append(tuple(letters[d] if shape[d - rank] != 1 or set(sizes[d]) == {1} else None for d in own))
    kept: Letters = (None,) if distance and node.arg(4, "keepdim", False) is True else ()
    output = (*letters[:place], *kept, *letters[place + 1 :])
    return Rule(tuple(inputs), (output,), whole=frozenset({f"X{place}"}))


def counted(node: Node, graph: Graph) -> Rule | None:
    """Histc (x, bins, lowest, highest): elements are counted, the range being given."""
    low, high = node.arg(2, "min", 0), node.arg(3, "max", 0)
    if low == high:
        return None  # the range is that of the elements
    return Rule((lettered(len(graph.values[node.inputs[0]].shape), ()),), ((None,),))


NOT_SUMS = {
    "default": """
        all amax amin aminmax any argmax argmin kthvalue linalg_norm linalg_matrix_norm linalg_vector_norm logsumexp max
        min mode nanmean prod std var
    """,
    "dim": "all any max min std var var_mean std_mean median nanmedian",
    "str_ord": "linalg_matrix_norm",
    "scalar": "quantile",
    "dims": "all any",
    "dim_int": "prod",
    "correction": "std var var_mean std_mean",
}

RULES = {f"aten.{name}.{overload}": whole for overload, names in NOT_SUMS.items() for name in names.split()} | {
    "aten.sum.default": summed,
    "aten.sum.dim_IntList": summed,
    "aten.mean.default": averaged,
    "aten.mean.dim": averaged,
    "aten.nansum.default": summed_up,
    "aten.count_nonzero.default": summed_up,
    "aten.count_nonzero.dim_IntList": summed_up,
    "aten.cosine_similarity.default": alike,
    "aten.pairwise_distance.default": alike,
    "aten.histc.default": counted,
}
