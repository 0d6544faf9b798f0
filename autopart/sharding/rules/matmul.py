"""Matrix products: what is missing from the output is contracted."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule


def matmul(node: Node, graph: Graph) -> Rule | None:
    """`torch.matmul`: batch dims aligned on the right and broadcast."""
    a, b = (graph.values[name].shape for name in node.inputs)
    if len(a) < 2 or len(b) < 2:
        return None
    rank = len(node.output.shape)
    batch = tuple(f"b{dim}" for dim in range(rank - 2))

    def leading(shape: tuple[object, ...]) -> Letters:
        own = batch[rank - len(shape) :]
        return tuple(letter if size != 1 else None for letter, size in zip(own, shape[:-2], strict=True))

    return Rule(((*leading(a), "m", "k"), (*leading(b), "k", "n")), ((*leading(node.output.shape), "m", "n"),))


def einsum(node: Node, graph: Graph) -> Rule | None:
    """`torch.einsum`, whose equation is the rule; without `...` and repeated letters in one operand."""
    equation = node.args[0]
    if not isinstance(equation, str) or "..." in equation:
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow or any(len(set(operand)) != len(operand) for operand in operands):
        return None
    return Rule(tuple(tuple(operand) for operand in operands), (tuple(right),))


RULES = {
    "aten.linear.default": "b* i, o i, o? -> b* o",
    "aten.mm.default": "m k, k n -> m n",
    "aten.addmm.default": "n?, m k, k n -> m n",
    "aten.bmm.default": "b m k, b k n -> b m n",
    "aten.baddbmm.default": "b? m n, b m k, b k n -> b m n",
    "aten.matmul.default": matmul,
    "aten.einsum.default": einsum,
}
