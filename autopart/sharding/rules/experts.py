"""Grouped matmuls: rows sorted by expert, each group of rows times its expert's matrix (Mixtral, DeepSeek-V3)."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule

ROWS, GROUPS = "R", "G"  # the letters of rows that stand in groups, and of the groups
GROUPED = ("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")


def grouped_mm(node: Node, graph: Graph) -> Rule | None:
    """(x, weight, offsets?): where an operand has two dims, `offsets` cuts rows, columns or both into the groups.

    What is cut stays whole, as do the groups: offsets count the elements of all of them.
    """
    if len(node.inputs) > 3 or node.arg(3, "bias") is not None:
        return None
    ranks = tuple(len(graph.values[name].shape) for name in node.inputs[:2])
    offsets: tuple[Letters, ...] = ((GROUPS,),) * (len(node.inputs) - 2)
    forms: dict[tuple[int, int], tuple[Letters, Letters, Letters]] = {
        (2, 3): ((ROWS, "k"), (GROUPS, "k", "n"), (ROWS, "n")),
        (3, 2): ((GROUPS, "m", "k"), ("k", ROWS), ("m", ROWS)),
        (2, 2): (("m", ROWS), (ROWS, "n"), (GROUPS, "m", "n")),
        (3, 3): (("e", "m", "k"), ("e", "k", "n"), ("e", "m", "n")),
    }
    if ranks not in forms or (ranks != (3, 3)) != bool(offsets):
        return None
    x, weight, output = forms[ranks]
    return Rule((x, weight, *offsets), (output,), whole=frozenset({ROWS, GROUPS}))


RULES = dict.fromkeys(GROUPED, grouped_mm)
