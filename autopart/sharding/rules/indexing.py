"""Indexing and sorting: the dim that is looked up stays whole; the positions looked up are free."""

from autopart.ir.graph import Graph, Node, Ref
from autopart.ir.size import Size
from autopart.sharding.letters import axis, integers, lettered, linear
from autopart.sharding.rule import Letters, Rule


def index(node: Node, graph: Graph) -> Rule | None:
    """`x[:, i, j]` (x, (None, i, j)): tensors of integers in the place of dims, broadcast against each other."""
    places = node.args[1]
    if not isinstance(places, tuple):
        return None
    given = [dim for dim, place in enumerate(places) if isinstance(place, Ref)]
    if not given or any(graph.values[name].dtype in ("bool", "uint8") for name in node.inputs[1:]):
        return None
    x, own = lettered(len(graph.values[node.inputs[0]].shape), given), positions(node.inputs[1:], graph)
    found = max(own, key=len)
    letters: Letters = tuple(
        next((o[i - len(found)] for o in own if len(o) >= len(found) - i and o[i - len(found)]), None)
        for i in range(len(found))
    )
    together = given[-1] - given[0] == len(given) - 1
    first = given[0] if together else 0
    rest = [letter for dim, letter in enumerate(x) if dim not in given]
    output = (*rest[:first], *letters, *rest[first:])
    return Rule((x, *own), (output,), whole=frozenset(f"X{dim}" for dim in given), linear=linear(node, graph) & {0})


def positions(names: tuple[str, ...], graph: Graph) -> list[Letters]:
    """The letters of index tensors, which are aligned on the right and broadcast."""
    shapes = [graph.values[name].shape for name in names]
    rank = max(len(shape) for shape in shapes)
    wide = {dim - len(shape) + rank for shape in shapes for dim, size in enumerate(shape) if size != 1}

    def own(shape: tuple[Size, ...]) -> Letters:
        dims = range(rank - len(shape), rank)
        return tuple(None if size == 1 and dim in wide else f"i{dim}" for dim, size in zip(dims, shape, strict=True))

    return [own(shape) for shape in shapes]


def index_select(node: Node, graph: Graph) -> Rule | None:
    """(x, dim, indices)."""
    rank = len(graph.values[node.inputs[0]].shape)
    if rank == 0 or not graph.values[node.inputs[1]].shape:
        return None
    dim = axis(node, rank, 1, 0)
    letters = lettered(rank, {dim})
    output = (*letters[:dim], "i", *letters[dim + 1 :])
    return Rule((letters, ("i",)), (output,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph) & {0})


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


def take_along(node: Node, graph: Graph) -> Rule | None:
    """take_along_dim (x, indices, dim): gather, with the other dims broadcast."""
    x, indices = (graph.values[name].shape for name in node.inputs)
    if len(x) != len(indices) or not isinstance(node.arg(2, "dim"), int):
        return None
    dim = axis(node, len(x), 2, 0)

    def letters(shape: tuple[Size, ...], other: tuple[Size, ...], along: str) -> Letters:
        pairs = enumerate(zip(shape, other, strict=True))
        return tuple(along if i == dim else f"d{i}" if a == b or a != 1 else None for i, (a, b) in pairs)

    output = tuple("i" if i == dim else f"d{i}" for i in range(len(x)))
    own = (letters(x, indices, "X"), letters(indices, x, "i"))
    return Rule(own, (output,), whole=frozenset({"X"}), linear=linear(node, graph) & {0})


def searched(node: Node, graph: Graph) -> Rule | None:
    """Searchsorted (sorted, x): x is free, its leading dims are those of a sorted tensor of several rows."""
    ordered_shape, x = (graph.values[name].shape for name in node.inputs[:2])
    if len(node.inputs) != 2:
        return None
    letters = lettered(len(x), ())
    rows = letters[:-1] if len(ordered_shape) > 1 else ()
    return Rule(((*rows, "S"), letters), (letters,), whole=frozenset({"S"}))


def looked_for(node: Node, graph: Graph) -> Rule:
    """Bucketize (x, boundaries) and isin (x, candidates): x is free."""
    x, others = (graph.values[name].shape for name in node.inputs)
    letters = lettered(len(x), ())
    candidates = tuple(f"S{dim}" for dim in range(len(others)))
    return Rule((letters, candidates), (letters,), whole=frozenset(candidates))


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


def mirrored(node: Node, graph: Graph) -> Rule:
    """Fliplr and flipud: columns or rows stay whole."""
    return _same(node, graph, {1 if node.op == "aten.fliplr.default" else 0}, linear(node, graph))


def rotated(node: Node, graph: Graph) -> Rule:
    """rot90 (x, times, dims): the two dims stay whole, and are other ones after a quarter."""
    rank = len(node.output.shape)
    touched = {dim % rank for dim in integers(node.arg(2, "dims", (0, 1)))}
    letters = lettered(rank, touched)
    output: Letters = tuple(None if dim in touched else letter for dim, letter in enumerate(letters))
    return Rule((letters,), (output,), whole=frozenset(f"X{dim}" for dim in touched), linear=linear(node, graph))


def taken(node: Node, graph: Graph) -> Rule:
    """Take (x, indices): x is one long row of which every index may ask for any element; indices are free."""
    x, indices = (graph.values[name].shape for name in node.inputs)
    letters = lettered(len(indices), ())
    inside = tuple(f"X{dim}" for dim in range(len(x)))
    return Rule((inside, letters), (letters,), whole=frozenset(inside), linear=linear(node, graph) & {0})


def triangle(node: Node, graph: Graph) -> Rule:
    """Tril and triu: rows and columns stay whole."""
    rank = len(node.output.shape)
    return _same(node, graph, {rank - 1, rank - 2}, linear(node, graph))


def ordered(node: Node, graph: Graph) -> Rule | None:
    """Sort, argsort and msort (x, dim, ...), topk (x, k, dim, ...): what is compared stays whole."""
    rank, name = len(node.output.shape), node.op.split(".")[1]
    place = 1 if node.op in ("aten.sort.default", "aten.argsort.default") else 2
    return _same(node, graph, {axis(node, rank, place, 0 if name == "msort" else -1)}) if rank else None


def _same(node: Node, graph: Graph, touched: set[int], through: frozenset[int] = frozenset()) -> Rule:
    letters = lettered(len(node.output.shape), touched)
    whole = frozenset(f"X{dim}" for dim in touched)
    return Rule((letters,), (letters,) * len(node.outputs), whole=whole, linear=through)


RULES = {
    "aten.index.Tensor": index,
    "aten.index_select.default": index_select,
    "aten.gather.default": gather,
    "aten.take_along_dim.default": take_along,
    "aten.searchsorted.Tensor": searched,
    "aten.bucketize.Tensor": looked_for,
    "aten.isin.Tensor_Tensor": looked_for,
    "aten.one_hot.default": one_hot,
    "aten.flip.default": moved,
    "aten.roll.default": moved,
    "aten.fliplr.default": mirrored,
    "aten.flipud.default": mirrored,
    "aten.rot90.default": rotated,
    "aten.take.default": taken,
    "aten.tril.default": triangle,
    "aten.triu.default": triangle,
    "aten.sort.default": ordered,
    "aten.sort.stable": ordered,
    "aten.argsort.default": ordered,
    "aten.argsort.stable": ordered,
    "aten.msort.default": ordered,
    "aten.topk.default": ordered,
}
