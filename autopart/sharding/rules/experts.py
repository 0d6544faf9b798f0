"""Grouped matmuls: rows sorted by expert, each group of rows times its expert's matrix (Mixtral, DeepSeek-V3)."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule


def grouped_mm(node: Node, graph: Graph) -> Rule | None:
    """(x, weight, offsets?): where an operand has two dims, `offsets` cuts rows, columns or both into the groups.

    What is cut stays whole, as do the experts: offsets count the elements of all of them. A row is computed from that
    row alone, so the rows have no letter, and samples in them do not mix here.
    """
    if len(node.inputs) > 3 or node.arg(3, "bias") is not None:
        return None
    ranks = tuple(len(graph.values[name].shape) for name in node.inputs[:2])
    offsets: tuple[Letters, ...] = ((None,),) * (len(node.inputs) - 2)
    forms: dict[tuple[int, int], tuple[Letters, Letters, Letters]] = {
        (2, 3): ((None, "k"), (None, "k", "n"), (None, "n")),
        (3, 2): ((None, "m", "k"), ("k", None), ("m", None)),
        (2, 2): (("m", None), (None, "n"), (None, "m", "n")),
        (3, 3): (("e", "m", "k"), ("e", "k", "n"), ("e", "m", "n")),
    }
    if ranks not in forms or (ranks != (3, 3)) != bool(offsets):
        return None
    x, weight, output = forms[ranks]
    return Rule((x, weight, *offsets), (output,))


RULES = {
    "aten._grouped_mm.default": grouped_mm,
    "transformers.grouped_mm_fallback.default": grouped_mm,
}
