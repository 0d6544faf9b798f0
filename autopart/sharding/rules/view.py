"""Views that move dims, add or drop them; and tensors of one value, whose shape alone is given."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import axis, integers, lettered, linear
from autopart.sharding.rule import Letters, Rule

MATRIX_TRANSPOSES = ("mT", "mH", "matrix_H", "adjoint")


def permute(node: Node, graph: Graph) -> Rule:
    """permute, transpose, movedim and their like."""
    rank = len(node.output.shape)
    letters = tuple(f"d{dim}" for dim in range(rank))
    return Rule((letters,), (tuple(letters[dim] for dim in permutation(node, rank)),), linear=linear(node, graph))


def permutation(node: Node, rank: int) -> list[int]:
    """For every dim of the result, the dim that it was."""
    name = node.op.split(".")[1]
    order = list(range(rank))
    if name == "numpy_T":
        return order[::-1]
    if rank < 2:
        return order
    if name == "permute":
        return [dim % rank for dim in integers(node.args[1])]
    first, second = {"t": (0, 1), **dict.fromkeys(MATRIX_TRANSPOSES, (-1, -2))}.get(name) or (
        node.args[1],
        node.args[2],
    )
    if name in ("movedim", "moveaxis"):
        sources, targets = ([dim % rank for dim in integers(dims)] for dims in (first, second))
        order = [dim for dim in order if dim not in sources]
        for target, source in sorted(zip(targets, sources, strict=True)):
            order.insert(target, source)
        return order
    (a,), (b,) = integers(first), integers(second)
    order[a], order[b] = order[b], order[a]
    return order


def expand(node: Node, graph: Graph) -> Rule:
    """expand, expand_as: a dim of size 1 that grows is a new axis; of another tensor only the shape is read."""
    source, result = graph.values[node.inputs[0]].shape, node.output.shape
    offset = len(result) - len(source)
    outputs = tuple(f"d{dim}" for dim in range(len(result)))
    inputs = tuple(outputs[offset + dim] if size == result[offset + dim] else None for dim, size in enumerate(source))
    others = (outputs,) * (len(node.inputs) - 1)
    return Rule((inputs, *others), (outputs,), linear=linear(node, graph) & {0})


def unsqueeze(node: Node, graph: Graph) -> Rule:
    """unsqueeze: the new dim belongs to no axis."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 1, 0)
    letters: Letters = tuple(f"d{i}" for i in range(rank - 1))
    return Rule((letters,), ((*letters[:dim], None, *letters[dim:]),), linear=linear(node, graph))


def squeeze(node: Node, graph: Graph) -> Rule:
    """squeeze: dims of size 1 go."""
    source = graph.values[node.inputs[0]].shape
    named = len(node.args) > 1
    dims = {dim % len(source) for dim in (integers(node.args[1]) if named else range(len(source))) if source}
    gone = {dim for dim in dims if source[dim] == 1}
    letters: Letters = tuple(None if size == 1 else f"d{dim}" for dim, size in enumerate(source))
    output = tuple(letter for dim, letter in enumerate(letters) if dim not in gone)
    # A dim that is named stays if it is larger than 1; a rank's share of it might be 1, and go.
    whole = frozenset(f"d{dim}" for dim in dims - gone) if named else frozenset[str]()
    return Rule((letters,), (output,), whole=whole, linear=linear(node, graph))


def created(node: Node, graph: Graph) -> Rule:
    """full, zeros, ones: every element is alike, so any dim may be made smaller; nothing is read of a tensor given."""
    letters = tuple(f"d{dim}" for dim in range(len(node.output.shape)))
    return Rule(tuple((None,) * len(graph.values[name].shape) for name in node.inputs), (letters,))


def diagonal(node: Node, graph: Graph) -> Rule:
    """Diagonal (x, offset, first dim, second dim): the two go, and the diagonal is a new last dim."""
    rank = len(graph.values[node.inputs[0]].shape)
    gone = {dim % rank for dim in (*integers(node.arg(2, "dim1", 0)), *integers(node.arg(3, "dim2", 1)))}
    letters = lettered(rank, gone)
    output: Letters = (*(letter for dim, letter in enumerate(letters) if dim not in gone), None)
    return Rule((letters,), (output,), whole=frozenset(f"X{dim}" for dim in gone), linear=linear(node, graph))


def diagonal_of(node: Node, graph: Graph) -> Rule:
    """diag_embed (x, offset, first dim, second dim): the last dim becomes the diagonal of two new ones."""
    rank = len(node.output.shape)
    new = {dim % rank for dim in (*integers(node.arg(2, "dim1", -2)), *integers(node.arg(3, "dim2", -1)))}
    letters = lettered(rank - 1, {rank - 2})
    free = iter(letters)
    output: Letters = tuple(None if dim in new else next(free) for dim in range(rank))
    return Rule((letters,), (output,), whole=frozenset({letters[-1]}), linear=linear(node, graph))


RULES = {
    "aten.diagonal.default": diagonal,
    "aten.diag_embed.default": diagonal_of,
    "aten.permute.default": permute,
    "aten.transpose.int": permute,
    "aten.swapaxes.default": permute,
    "aten.swapdims.default": permute,
    "aten.movedim.int": permute,
    "aten.movedim.intlist": permute,
    "aten.t.default": permute,
    "aten.mT.default": permute,
    "aten.mH.default": permute,
    "aten.matrix_H.default": permute,
    "aten.adjoint.default": permute,
    "aten.moveaxis.int": permute,
    "aten.moveaxis.intlist": permute,
    "aten.numpy_T.default": permute,
    "aten.expand.default": expand,
    "aten.expand_as.default": expand,
    "aten.broadcast_to.default": expand,
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.full.default": created,
    "aten.zeros.default": created,
    "aten.ones.default": created,
    "aten.empty.memory_format": created,
    "aten.new_empty.default": created,
    "aten.new_ones.default": created,
    "aten.new_zeros.default": created,
    "aten.new_full.default": created,
}
