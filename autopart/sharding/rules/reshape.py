"""Reshapes: dims split and merge. To shard a factor inside a dim takes parts."""

from collections.abc import Iterator

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.ir.size import Size, evaluate, product
from autopart.sharding.letters import linear
from autopart.sharding.rule import Move, Rule

LARGE_PRIME = 1_000_003


def reshape(node: Node, graph: Graph) -> Rule | None:
    """view, reshape, flatten, unflatten: matched group by group, the products of the sizes being equal.

    Of a second tensor (`view_as`) the shape alone is read.
    """
    source, result = graph.values[node.inputs[0]].shape, node.output.shape
    inputs: list[str | None] = [None] * len(source)
    outputs: list[str | None] = [None] * len(result)
    moves: list[Move] = []
    mixed: set[str] = set()
    matched = list(groups(source, result))
    if not matched:
        return None
    for ins, outs in matched:
        wide_in = [dim for dim in ins if source[dim] != 1]
        wide_out = [dim for dim in outs if result[dim] != 1]
        if len(wide_in) == 1 and len(wide_out) == 1:
            inputs[wide_in[0]] = outputs[wide_out[0]] = f"d{wide_in[0]}"
        elif any(_symbolic(source[dim]) for dim in wide_in) and not _symbolic(result[wide_out[0]]):
            for dim in wide_in:  # samples are dealt out over another dim
                inputs[dim] = f"X{dim}"
                mixed.add(f"X{dim}")
        elif len(wide_in) == 1:
            moves += _split(wide_in[0], wide_out, result)
        elif len(wide_out) == 1:
            moves += [Move(m.letter, m.outputs, m.inputs) for m in _split(wide_out[0], wide_in, source)]
        elif wide_in and wide_out:  # the first half of the rows of one is the first half of the rows of the other
            moves.append(Move(f"d{wide_in[0]}", (Shard(wide_in[0]),), (Shard(wide_out[0]),)))
    like = len(node.inputs) - 1
    moves = [Move(m.letter, m.inputs + m.outputs * like, m.outputs) for m in moves]
    sources = (tuple(inputs), *((tuple(outputs),) * like))
    return Rule(sources, (tuple(outputs),), frozenset(mixed), linear=linear(node, graph) & {0}, moves=tuple(moves))


def _symbolic(size: Size) -> bool:
    return not isinstance(size, int)


def groups(source: tuple[Size, ...], result: tuple[Size, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """The finest consecutive groups of dims on both sides that hold equally many elements."""
    i = j = 0
    while i < len(source) or j < len(result):
        ins, outs = [], []
        if i < len(source):
            ins.append(i)
            i += 1
        if j < len(result):
            outs.append(j)
            j += 1
        left, right = product(tuple(source[d] for d in ins)), product(tuple(result[d] for d in outs))
        while left != right:
            if _smaller(left, right) and i < len(source):
                ins.append(i)
                left, i = left * source[i], i + 1
            elif j < len(result):
                outs.append(j)
                right, j = right * result[j], j + 1
            elif i < len(source):
                ins.append(i)
                left, i = left * source[i], i + 1
            else:
                return
        yield ins, outs


def _smaller(left: Size, right: Size) -> bool:
    """Whether more dims must join on the left. Expressions are compared at a batch that no size divides."""
    return evaluate(left, LARGE_PRIME) < evaluate(right, LARGE_PRIME)


def _split(dim: int, factors: list[int], shape: tuple[Size, ...]) -> list[Move]:
    """One dim that falls into `factors` of `shape`: factor j is the dim in as many parts as factors before it make."""
    moves, outer = [], 1
    for factor in factors:
        moves.append(Move(f"d{dim}f{factor}", (Shard(dim, (1,) * outer),), (Shard(factor),)))
        size = shape[factor]
        if not isinstance(size, int):
            break  # a symbolic number of parts cannot be told apart
        outer *= size
    return moves


RULES = {
    "aten.view.default": reshape,
    "aten.reshape.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.flatten.using_ints": reshape,
    "aten.unflatten.int": reshape,
    "aten.ravel.default": reshape,
    "aten.view_as.default": reshape,
    "aten.reshape_as.default": reshape,
    "aten.atleast_1d.default": reshape,
    "aten.atleast_2d.default": reshape,
    "aten.atleast_3d.default": reshape,
}
