"""Letters: what the rules' functions share to name the dims of a call."""

from collections.abc import Collection

from autopart.ir.graph import Arg, Graph, Node


def linear(node: Node, graph: Graph) -> frozenset[int]:
    """The operands through which partial sums pass: all, but a sum of booleans is no boolean."""
    boolean = any(graph.values[name].dtype == "bool" for name in node.inputs)
    return frozenset() if boolean else frozenset(range(len(node.inputs)))


def axis(node: Node, rank: int, place: int, default: int) -> int:
    """The dim that the argument at `place` names."""
    dim = node.arg(place, "dim", default)
    return dim % rank if isinstance(dim, int) else default % rank


def lettered(rank: int, touched: Collection[int]) -> tuple[str, ...]:
    """Letters d0, d1 and so on; X0, X1 and so on for the dims touched."""
    return tuple(f"X{dim}" if dim in touched else f"d{dim}" for dim in range(rank))


def integers(arg: Arg) -> tuple[int, ...]:
    """The integers of an argument that is one or several."""
    return tuple(item for item in (arg if isinstance(arg, tuple) else (arg,)) if isinstance(item, int))
