"""Scattering: writing into a copy of a tensor. What is added at positions may be shared; what is replaced may not."""

from autopart.ir.graph import Graph, Node, Ref
from autopart.ir.size import Size
from autopart.sharding.letters import axis, lettered, linear
from autopart.sharding.rule import Letters, Rule
from autopart.sharding.rules.indexing import positions


def scatter(node: Node, graph: Graph) -> Rule | None:
    """(x, dim, indices, values, ...): other dims are the same axis where all have the same size.

    Ranks may share the positions where values are added: the result is a partial sum, to which x is added once.
    """
    shapes = [graph.values[name].shape for name in node.inputs]
    x, indices = shapes[:2]
    if not x or not indices:
        return None
    dim = axis(node, len(x), 1, 0)
    touched = {i for i in range(len(x)) if i == dim or len({shape[i] for shape in shapes}) > 1}
    letters = lettered(len(x), touched)
    adds = node.op == "aten.scatter_add.default" and shapes[1][dim] == shapes[2][dim]
    place = "i" if adds else "I"
    own: Letters = tuple(place if i == dim else None if i in touched else letter for i, letter in enumerate(letters))
    whole = {"I", *(f"X{i}" for i in touched)}
    rest = frozenset({0, *range(2, len(shapes))})
    through = rest if node.op in ("aten.scatter.src", "aten.scatter_add.default") else frozenset[int]()
    if node.op == "aten.scatter.value" and node.args[3] == 0:
        through = frozenset({0})
    through &= _summable(node, graph)
    once = frozenset({0} if adds else ())
    return Rule((letters, *((own,) * (len(shapes) - 1))), (letters,), frozenset(whole), once, linear=through)


def index_into(node: Node, graph: Graph) -> Rule | None:
    """index_add, index_copy, index_reduce (x, dim, indices, values), index_fill (x, dim, indices, value)."""
    x, indices = (graph.values[name].shape for name in node.inputs[:2])
    name = node.op.split(".")[1]
    if not x or not indices:
        return None
    dim = axis(node, len(x), 1, 0)
    letters = lettered(len(x), {dim})
    adds = name == "index_add"
    place = "i" if adds else "I"
    values: Letters = () if name == "index_fill" else tuple(place if i == dim else x for i, x in enumerate(letters))
    inputs: tuple[Letters, ...] = (letters, (place,), *((values,) * (len(node.inputs) - 2)))
    through = frozenset({0, 2}) if name in ("index_add", "index_copy") else frozenset[int]()
    once = frozenset({0} if adds else ())
    return Rule(inputs, (letters,), frozenset({"I", f"X{dim}"}), once, linear=through & _summable(node, graph))


def index_put(node: Node, graph: Graph) -> Rule | None:
    """`x[:, i, j] = values` (x, (None, i, j), values, accumulate), or one mask in the place of dims."""
    places = node.args[1]
    if not isinstance(places, tuple):
        return None
    given = [dim for dim, place in enumerate(places) if isinstance(place, Ref)]
    indices, values = node.inputs[1:-1], graph.values[node.inputs[-1]].shape
    if not given or len(node.inputs) != len(given) + 2:
        return None
    rank = len(graph.values[node.inputs[0]].shape)
    dtypes = {graph.values[name].dtype for name in indices}
    if dtypes == {"bool"} and len(given) == 1 and given == [0]:
        return _masked(graph.values[indices[0]].shape, values, rank)
    if dtypes & {"bool", "uint8"} or given[-1] - given[0] != len(given) - 1:
        return None
    adds = node.arg(3, "accumulate", False) is True
    letters = lettered(rank, given)
    own = positions(indices, graph)
    found = max(len(letters) for letters in own)
    places_of = [f"i{i}" for i in range(found)]
    rest = [letter for dim, letter in enumerate(letters) if dim not in given]
    written = [*rest[: given[0]], *places_of, *rest[given[0] :]]
    target: list[Size] = [size for name in (node.inputs[0],) for size in graph.values[name].shape]
    sizes: list[Size | None] = [*target[: given[0]], *((None,) * found), *target[given[-1] + 1 :]]
    values_of = _aligned(written, sizes, values)
    spread = {letter for letter in places_of if letter not in values_of}  # one value for many positions
    whole = frozenset(f"X{dim}" for dim in given) | (spread if adds else frozenset(places_of))
    through = frozenset({0, len(given) + 1}) & _summable(node, graph)
    once = frozenset({0} if adds else ())
    return Rule((letters, *own, values_of), (letters,), whole, once, linear=through)


def _masked(mask: tuple[Size, ...], values: tuple[Size, ...], rank: int) -> Rule | None:
    """`x[mask] = value`: elementwise where one value is written to all places of the mask."""
    letters = lettered(rank, ())
    trailing = rank - len(mask)
    if len(values) > trailing and any(size != 1 for size in values[: len(values) - trailing]):
        return None
    own: Letters = tuple(
        letters[rank - len(values) + dim] if size != 1 and len(values) - dim <= trailing else None
        for dim, size in enumerate(values)
    )
    return Rule((letters, letters[: len(mask)], own), (letters,))


def _aligned(letters: list[str], sizes: list[Size | None], shape: tuple[Size, ...]) -> Letters:
    """Letters for `shape`, aligned on the right; None where its size is 1 and that of the place is not."""
    offset = len(letters) - len(shape)
    pairs = ((letters[offset + dim], sizes[offset + dim], size) for dim, size in enumerate(shape))
    return tuple(letter if size != 1 or place == 1 else None for letter, place, size in pairs)


def into_view(node: Node, graph: Graph) -> Rule:
    """select_scatter (x, values, dim, index), slice_scatter (x, values, dim, ...): the dim written into stays whole."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 2, 0)
    letters = lettered(rank, {dim})
    hole: Letters = () if node.op == "aten.select_scatter.default" else (None,)
    values = (*letters[:dim], *hole, *letters[dim + 1 :])
    return Rule((letters, values), (letters,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph))


def into_diagonal(node: Node, graph: Graph) -> Rule:
    """diagonal_scatter (x, values, offset, first dim, second dim)."""
    rank = len(node.output.shape)
    gone = {axis_of % rank for axis_of in (node.arg(3, "dim1", 0), node.arg(4, "dim2", 1)) if isinstance(axis_of, int)}
    letters = lettered(rank, gone)
    values: Letters = (*(letter for dim, letter in enumerate(letters) if dim not in gone), None)
    return Rule((letters, values), (letters,), whole=frozenset(f"X{dim}" for dim in gone), linear=linear(node, graph))


def _summable(node: Node, graph: Graph) -> frozenset[int]:
    boolean = node.output.dtype == "bool"
    return frozenset() if boolean else frozenset(range(len(node.inputs)))


RULES = {
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter,
    "aten.scatter.reduce": scatter,
    "aten.scatter.value_reduce": scatter,
    "aten.scatter_add.default": scatter,
    "aten.scatter_reduce.two": scatter,
    "aten.index_add.default": index_into,
    "aten.index_copy.default": index_into,
    "aten.index_reduce.default": index_into,
    "aten.index_fill.int_Scalar": index_into,
    "aten.index_fill.int_Tensor": index_into,
    "aten.index_put.default": index_put,
    "aten.select_scatter.default": into_view,
    "aten.slice_scatter.default": into_view,
    "aten.diagonal_scatter.default": into_diagonal,
}
