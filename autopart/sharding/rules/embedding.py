"""Embedding lookups: rows may be sharded, a rank then looks up what it holds and adds zeros for the rest."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.ir.size import is_batched
from autopart.sharding.rule import Letters, Move, Rule

SUM, MEAN, MAXIMUM = range(3)  # the modes of a bag


def embedding(node: Node, graph: Graph) -> Rule | None:
    """(weight, indices, padding_idx, scale_grad_by_freq, sparse): weight is (rows, width)."""
    if node.arg(3, "scale_grad_by_freq", False) is True or node.arg(4, "sparse", False) is True:
        return None  # the gradient of a row depends on how often all indices name it
    positions = tuple(f"b{dim}" for dim in range(len(graph.values[node.inputs[1]].shape)))
    rows = Move("V", (Shard(0), None), (None,), call="embedding")
    names = (("V", "vocab"), ("h", "hidden"))
    return Rule((("V", "h"), positions), ((*positions, "h"),), whole=frozenset({"V"}), moves=(rows,), names=names)


def embedding_bag(node: Node, graph: Graph) -> Rule | None:
    """(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights, ...): a row for each bag.

    `offsets`, where each bag begins, count from the first of all indices: a rank cannot have a share of the bags. A
    part of the samples can be computed for itself where all bags are equally long, as those of an (n, places) tensor.
    """
    if len(node.outputs) != 1 or node.arg(3, "scale_grad_by_freq", False) is True or node.arg(5, "sparse") is True:
        return None
    bags, places = (node.output.shape[0], graph.values[node.inputs[1]].shape[0])
    samples = is_batched(bags) or is_batched(places)
    place: Letters = ("B",) if samples else (None,)
    apart = samples and _equally_long(node, graph)
    whole = frozenset({"V"} if apart else {"V", "B"})
    indices = (place,) * (len(node.inputs) - 1)
    rows = Move("V", (Shard(0), *((None,) * len(indices))), (None,), call="embedding_bag")
    moves = () if node.arg(4, "mode", SUM) == MAXIMUM else (rows,)
    names = (("V", "vocab"), ("h", "hidden"))
    return Rule((("V", "h"), *indices), ((*place, "h"),), whole=whole, moves=moves, names=names)


def _equally_long(node: Node, graph: Graph) -> bool:
    """Whether bags of one number of places follow each other, up to the last of the indices."""
    offsets, places = node.inputs[2], graph.values[node.inputs[1]].shape[0]
    if offsets not in graph.producer or node.arg(7, "include_last_offset", False) is True:
        return False
    made = graph.nodes[graph.producer[offsets]]
    if made.op != "aten.arange.start_step" or len(made.args) != 3:
        return False
    start, end, step = made.args
    return start == 0 and end == places and isinstance(step, int)


RULES = {
    "aten.embedding.default": embedding,
    "aten.embedding_bag.padding_idx": embedding_bag,
}
