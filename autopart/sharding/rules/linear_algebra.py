"""Linear algebra on stacks of matrices: the matrix stays whole, the dims before it are free."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Rule


def solve(node: Node, graph: Graph) -> Rule | None:
    """(matrix, right-hand sides): from the left, each column is a problem of its own."""
    a, b = (graph.values[name].shape for name in node.inputs)
    if len(a) != len(b) or a[:-2] != b[:-2] or dict(node.kwargs).get("left", True) is not True:
        return None
    batch = tuple(f"b{dim}" for dim in range(len(a) - 2))
    right = (*batch, "N", "r")
    return Rule(((*batch, "M", "N"), right), (right,), whole=frozenset({"M", "N"}))


RULES = {
    "aten.linalg_inv.default": "b* M N -> b* M N",
    "aten.linalg_cholesky.default": "b* M N -> b* M N",
    "aten.linalg_matrix_exp.default": "b* M N -> b* M N",
    "aten.matrix_exp.default": "b* M N -> b* M N",
    "aten.linalg_matrix_power.default": "b* M N -> b* M N",
    "aten.linalg_svdvals.default": "b* M N -> b* K",
    "aten.linalg_det.default": "b* M N -> b*",
    "aten.logdet.default": "b* M N -> b*",
    "aten.linalg_slogdet.default": "b* M N -> b*, b*",
    "aten.linalg_qr.default": "b* M N -> b* M K, b* K N",
    "aten.linalg_eigh.default": "b* M N -> b* K, b* M K",
    "aten.linalg_solve.default": solve,
    "aten.linalg_solve_triangular.default": solve,
}
