"""Indexing and sorting: the dim that is looked up stays whole; the positions looked up are free."""

from autopart.ir.graph import Graph, Node, Ref
from autopart.sharding.letters import axis, integers, lettered, linear
from autopart.sharding.rule import Letters, Rule


def index(node: Node, graph: Graph) -> Rule | None:
    """`x[:, i]` (x, (None, i)): one tensor of integers in the place of one dim."""
    places = node.args[1]
    if not isinstance(places, tuple):
        return None
    given = [dim for dim, place in enumerate(places) if isinstance(place, Ref)]
    if len(given) != 1 or graph.values[node.inputs[1]].dtype in ("bool", "uint8"):
        return None
    return _looked_up(node, graph, given[0])


def index_select(node: Node, graph: Graph) -> Rule | None:
    """(x, dim, indices)."""
    rank = len(graph.values[node.inputs[0]].shape)
    if rank == 0 or not graph.values[node.inputs[1]].shape:
        return None
    return _looked_up(node, graph, axis(node, rank, 1, 0))


def _looked_up(node: Node, graph: Graph, dim: int) -> Rule:
    x, indices = (graph.values[name].shape for name in node.inputs)
    letters = lettered(len(x), {dim})
    own = tuple(f"i{i}" for i in range(len(indices)))
    output = (*letters[:dim], *own, *letters[dim + 1 :])
    return Rule((letters, own), (output,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph) & {0})


def gather(node: Node, graph: Graph) -> Rule | None:
    """(x, dim, indices): other dims are the same axis where x is not larger."""
    x, indices = (graph.values[name].shape for name in node.inputs)
    if not x or not indices:
        return None
    dim = axis(node, len(x), 1, 0)
    touched = {i for i in range(len(x)) if i == dim or x[i] != indices[i]}
    letters = lettered(len(x), touched)
    own: Letters = tuple("i" if i == dim else None if i in touched else letter for i, letter in enumerate(letters))
    whole = frozenset(f"X{i}" for i in touched)
    return Rule((letters, own), (own,), whole=whole, linear=linear(node, graph) & {0})


def one_hot(node: Node, graph: Graph) -> Rule:
    """A new last dim, which belongs to no axis."""
    letters = lettered(len(node.output.shape) - 1, ())
    return Rule((letters,), ((*letters, None),))


def moved(node: Node, graph: Graph) -> Rule | None:
    """Flip (x, dims) and roll (x, shifts, dims): the dims named stay whole."""
    rank = len(node.output.shape)
    dims = integers(node.arg(1 if node.op == "aten.flip.default" else 2, "dims", ()))
    if not dims:
        return None  # rolled as if it were one long row
    return _same(node, graph, {dim % rank for dim in dims}, linear(node, graph))


def triangle(node: Node, graph: Graph) -> Rule:
    """Tril and triu: rows and columns stay whole."""
    rank = len(node.output.shape)
    return _same(node, graph, {rank - 1, rank - 2}, linear(node, graph))


def ordered(node: Node, graph: Graph) -> Rule | None:
    """Sort and argsort (x, dim, ...), topk (x, k, dim, ...): what is compared stays whole."""
    rank = len(node.output.shape)
    return _same(node, graph, {axis(node, rank, 2 if node.op == "aten.topk.default" else 1, -1)}) if rank else None


def _same(node: Node, graph: Graph, touched: set[int], through: frozenset[int] = frozenset()) -> Rule:
    letters = lettered(len(node.output.shape), touched)
    whole = frozenset(f"X{dim}" for dim in touched)
    return Rule((letters,), (letters,) * len(node.outputs), whole=whole, linear=through)


RULES = {
    "aten.index.Tensor": index,
    "aten.index_select.default": index_select,
    "aten.gather.default": gather,
    "aten.one_hot.default": one_hot,
    "aten.flip.default": moved,
    "aten.roll.default": moved,
    "aten.tril.default": triangle,
    "aten.triu.default": triangle,
    "aten.sort.default": ordered,
    "aten.argsort.default": ordered,
    "aten.topk.default": ordered,
}
