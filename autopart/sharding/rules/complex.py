"""Complex numbers and their parts: elementwise, and linear over the reals where nothing is multiplied."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import lettered
from autopart.sharding.rule import Rule
from autopart.sharding.rules.elementwise import elementwise


def part(node: Node, graph: Graph) -> Rule:
    """Parts, conjugates, and a complex number of its parts: sums of them are those of sums."""
    return replace(elementwise(node, graph), linear=frozenset(range(len(node.inputs))))


def pairs(node: Node, graph: Graph) -> Rule:
    """view_as_real: a new last dim of two, which belongs to no axis."""
    letters = lettered(len(node.output.shape) - 1, ())
    return Rule((letters,), ((*letters, None),), linear=frozenset({0}))


def of_pairs(node: Node, graph: Graph) -> Rule:
    """view_as_complex: the last dim of two goes."""
    letters = lettered(len(node.output.shape), ())
    return Rule(((*letters, None),), (letters,), linear=frozenset({0}))


PARTS = "real imag complex _conj conj_physical resolve_conj resolve_neg"

RULES = {f"aten.{name}.default": part for name in PARTS.split()} | {
    "aten.angle.default": elementwise,
    "aten.polar.default": elementwise,
    "aten.sgn.default": elementwise,
    "aten.view_as_real.default": pairs,
    "aten.view_as_complex.default": of_pairs,
}
