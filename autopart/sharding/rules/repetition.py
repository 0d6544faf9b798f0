"""Repetition: copies of a dim one after another, copies of each element, and grids."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.letters import axis, lettered, linear
from autopart.sharding.rule import Letters, Move, Rule


def repeat(node: Node, graph: Graph) -> Rule:
    """Repeat and tile (x, times): copies one after another, each a part."""
    source, times = graph.values[node.inputs[0]].shape, node.args[1]
    rank = len(node.output.shape)
    counts = times if isinstance(times, tuple) else ()
    counts = (1,) * (rank - len(counts)) + counts
    inputs: list[str | None] = [None] * len(source)
    outputs: list[str | None] = [None] * rank
    moves = []
    for dim in range(len(source)):
        place = rank - len(source) + dim
        count = counts[place]
        if count == 1:
            inputs[dim] = outputs[place] = f"d{dim}"
        elif isinstance(count, int) and count > 0:
            moves.append(Move(f"d{dim}", (Shard(dim),), (Shard(place, (1,) * count),)))
    return Rule((tuple(inputs),), (tuple(outputs),), linear=linear(node, graph), moves=tuple(moves))


def repeat_each(node: Node, graph: Graph) -> Rule | None:
    """`repeat_interleave` (x, times, dim): each element's copies stand together. Ranks share elements, or copies."""
    source, times = graph.values[node.inputs[0]].shape, node.args[1]
    if not source or not isinstance(times, int) or (node.arg(2, "dim") is None and len(source) > 1):
        return None
    dim = axis(node, len(source), 2, 0)
    letters: Letters = tuple(f"d{i}" if i != dim else None for i in range(len(source)))
    moves = [Move(f"d{dim}", (Shard(dim),), (Shard(dim),))]
    if isinstance(size := source[dim], int) and size > 0:
        moves.append(Move(f"r{dim}", (None,), (Shard(dim, (1,) * size),)))
    return Rule((letters,), (letters,), linear=linear(node, graph), moves=tuple(moves))


def meshgrid(node: Node, graph: Graph) -> Rule:
    """(vectors, indexing): every output has a dim for every vector; "xy" swaps the first two."""
    count = len(node.inputs)
    letters = list(lettered(count, ()))
    inputs: tuple[Letters, ...] = tuple(
        (x,) * len(graph.values[n].shape) for x, n in zip(letters, node.inputs, strict=True)
    )
    if node.arg(1, "indexing", "ij") == "xy" and count > 1:
        letters[:2] = letters[1::-1]
    return Rule(inputs, (tuple(letters),) * count, linear=linear(node, graph))


RULES = {
    "aten.repeat.default": repeat,
    "aten.tile.default": repeat,
    "aten.repeat_interleave.self_int": repeat_each,
    "aten.meshgrid.default": meshgrid,
    "aten.meshgrid.indexing": meshgrid,
}
