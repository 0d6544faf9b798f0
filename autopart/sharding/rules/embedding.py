"""Embedding lookups: rows may be sharded, a rank then looks up what it holds and adds zeros for the rest."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.rule import Move, Rule


def embedding(node: Node, graph: Graph) -> Rule | None:
    """(weight, indices, padding_idx, scale_grad_by_freq, sparse): weight is (rows, width)."""
    if node.arg(3, "scale_grad_by_freq", False) is True or node.arg(4, "sparse", False) is True:
        return None  # the gradient of a row depends on how often all indices name it
    positions = tuple(f"b{dim}" for dim in range(len(graph.values[node.inputs[1]].shape)))
    rows = Move("V", (Shard(0), None), (None,), call="embedding")
    names = (("V", "vocab"), ("h", "hidden"))
    return Rule((("V", "h"), positions), ((*positions, "h"),), whole=frozenset({"V"}), moves=(rows,), names=names)


RULES = {"aten.embedding.default": embedding}
