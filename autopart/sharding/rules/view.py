"""Views that move dims, add or drop them; and tensors of one value, whose shape alone is given."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import axis, integers, linear
from autopart.sharding.rule import Letters, Rule


def permute(node: Node, graph: Graph) -> Rule:
    """permute, transpose, movedim and their like."""
    rank = len(node.output.shape)
    letters = tuple(f"d{dim}" for dim in range(rank))
    return Rule((letters,), (tuple(letters[dim] for dim in _order(node, rank)),), linear=linear(node, graph))


def _order(node: Node, rank: int) -> list[int]:
    """For every dim of the result, the dim that it was."""
    name = node.op.split(".")[1]
    order = list(range(rank))
    if name == "numpy_T":
        return order[::-1]
    if rank < 2:
        return order
    if name == "permute":
        return [dim % rank for dim in integers(node.args[1])]
    first, second = {"t": (0, 1), "mT": (-1, -2)}.get(name) or (node.args[1], node.args[2])
    if name == "movedim":
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


def created(node: Node, graph: Graph) -> Rule | None:
    """full, zeros, ones: every element is alike, so any dim may be made smaller; nothing is read of a tensor given."""
    if any(graph.values[name].requires_grad for name in node.inputs):
        return None
    letters = tuple(f"d{dim}" for dim in range(len(node.output.shape)))
    return Rule(tuple((None,) * len(graph.values[name].shape) for name in node.inputs), (letters,))


RULES = {
    "aten.permute.default": permute,
    "aten.transpose.int": permute,
    "aten.swapaxes.default": permute,
    "aten.swapdims.default": permute,
    "aten.movedim.int": permute,
    "aten.movedim.intlist": permute,
    "aten.t.default": permute,
    "aten.mT.default": permute,
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
    "aten.new_ones.default": created,
    "aten.new_zeros.default": created,
    "aten.new_full.default": created,
}
