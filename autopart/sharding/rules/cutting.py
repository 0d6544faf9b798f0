"""Cutting and joining: slice, select, pad, split, cat, stack.

A dim that is cut or indexed has a letter that must stay whole; a dim that falls into pieces is sharded in parts.
"""

from itertools import pairwise

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard, normalized
from autopart.sharding.letters import axis, integers, lettered, linear
from autopart.sharding.rule import Letters, Move, Rule


def slice_(node: Node, graph: Graph) -> Rule:
    """slice: what is left of a dim is another axis. The slices of a fused projection are sharded as by split."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 1, 0)
    pieces = _pieces(node, graph, dim)
    if pieces is not None:
        letters: Letters = tuple(f"d{i}" if i != dim else None for i in range(rank))
        moves = (Move(f"d{dim}", (Shard(dim, pieces[0]),), (Shard(dim, pieces[1]),)),)
        return Rule((letters,), (letters,), linear=linear(node, graph), moves=moves)
    letters = lettered(rank, {dim})
    output: Letters = tuple(letter if i != dim else None for i, letter in enumerate(letters))
    return Rule((letters,), (output,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph))


def _pieces(node: Node, graph: Graph, dim: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The parts into which all slices of one tensor cut it along `dim`, and those of them that this slice has.

    Only for what a weight has just made, as the weight is then sharded in these parts. For other tensors (the halves
    that rotary embeddings swap) they would make the search larger, and no plan better.
    """
    source = node.inputs[0]
    made = graph.nodes[graph.producer[source]].inputs if source in graph.producer else ()
    size = graph.values[source].shape[dim]
    own = _bounds(node, dim)
    if own is None or not isinstance(size, int) or not any(name in graph.parameter_of for name in made):
        return None
    cuts = {0, size}
    for index in graph.consumers[source]:
        other = graph.nodes[index]
        bounds = (
            _bounds(other, dim) if other.op == node.op and axis(other, len(node.output.shape), 1, 0) == dim else None
        )
        cuts.update(bounds or ())
    edges = sorted(cuts)
    lengths = [(start, stop - start) for start, stop in pairwise(edges)]
    inside = tuple(length for start, length in lengths if own[0] <= start < own[1])
    return normalized(tuple(length for _, length in lengths)), normalized(inside)


def _bounds(node: Node, dim: int) -> tuple[int, int] | None:
    """Where a slice begins and ends, or None where that depends on the batch, or it leaves gaps."""
    start, length = node.arg(2, "start", 0) or 0, node.output.shape[dim]
    if not isinstance(start, int) or start < 0 or not isinstance(length, int) or node.arg(4, "step", 1) != 1:
        return None
    return (start, start + length) if length else None


def select(node: Node, graph: Graph) -> Rule:
    """Select and unbind: the dim that is indexed goes."""
    rank = len(graph.values[node.inputs[0]].shape)
    dim = axis(node, rank, 1, 0)
    letters = lettered(rank, {dim})
    output = (*letters[:dim], *letters[dim + 1 :])
    return Rule((letters,), (output,) * len(node.outputs), whole=frozenset({f"X{dim}"}), linear=linear(node, graph))


def pad(node: Node, graph: Graph) -> Rule:
    """pad: (x, (left of the last dim, right of it, left of the one before, ...), mode, value)."""
    rank = len(node.output.shape)
    touched = {rank - 1 - place // 2 for place, width in enumerate(integers(node.args[1])) if width != 0}
    letters = lettered(rank, touched)
    output: Letters = tuple(letter if i not in touched else None for i, letter in enumerate(letters))
    value = node.arg(2, "value") if node.op == "aten.constant_pad_nd.default" else node.arg(3, "value")
    # What is padded with would be added once a rank.
    through = linear(node, graph) if value in (0, None) else frozenset[int]()
    return Rule((letters,), (output,), whole=frozenset(f"X{dim}" for dim in touched), linear=through)


def split(node: Node, graph: Graph) -> Rule:
    """Split, chunk, tensor_split: a shard of every piece is a shard of the whole in as many parts."""
    return _split(node, graph, axis(node, len(graph.values[node.inputs[0]].shape), 2, 0))


def split_along(node: Node, graph: Graph) -> Rule:
    """hsplit, vsplit, dsplit: along a dim that the name gives."""
    dim = {"vsplit": 0, "hsplit": 1, "dsplit": 2}[node.op.split(".")[1]]
    return _split(node, graph, min(dim, len(graph.values[node.inputs[0]].shape) - 1))


def _split(node: Node, graph: Graph, dim: int) -> Rule:
    source = graph.values[node.inputs[0]].shape
    letters: Letters = tuple(f"d{i}" if i != dim else None for i in range(len(source)))
    sizes = [size for value in node.outputs if isinstance(size := value.shape[dim], int) and size > 0]
    outputs = (letters,) * len(node.outputs)
    if len(sizes) < len(node.outputs):
        cut = lettered(len(source), {dim})
        return Rule((cut,), outputs, whole=frozenset({f"X{dim}"}), linear=linear(node, graph))
    moves = (Move(f"d{dim}", (Shard(dim, normalized(tuple(sizes))),), (Shard(dim),) * len(sizes)),)
    return Rule((letters,), outputs, linear=linear(node, graph), moves=moves)


def differences(node: Node, graph: Graph) -> Rule | None:
    """Diff (x, n, dim, before, after): along a dim that stays whole."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 2, -1)
    letters = lettered(rank, {dim})
    output: Letters = tuple(letter if i != dim else None for i, letter in enumerate(letters))
    added = (output,) * (len(node.inputs) - 1)
    return Rule((letters, *added), (output,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph))


def glu(node: Node, graph: Graph) -> Rule:
    """glu: the first half times the sigmoid of the second."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 1, -1)
    letters: Letters = tuple(f"d{i}" if i != dim else None for i in range(rank))
    return Rule((letters,), (letters,), moves=(Move(f"d{dim}", (Shard(dim, (1, 1)),), (Shard(dim),)),))


def cat(node: Node, graph: Graph) -> Rule:
    """cat: the converse of split. An empty tensor of one dim, which torch lets pass, belongs to no axis."""
    rank = len(node.output.shape)
    return _joined(node, graph, axis(node, rank, 1, 0))


def stacked(node: Node, graph: Graph) -> Rule | None:
    """hstack, column_stack and the like: cat along a dim of the name, where no operand is given another dim first."""
    rank, name = len(node.output.shape), node.op.split(".")[1]
    dim = {"vstack": 0, "hstack": 1, "dstack": 2, "column_stack": 1}[name]
    if any(len(graph.values[operand].shape) != rank for operand in node.inputs):
        return None
    return _joined(node, graph, dim if rank > 1 else 0)


def _joined(node: Node, graph: Graph, dim: int) -> Rule:
    shapes = [graph.values[name].shape for name in node.inputs]
    rank = len(node.output.shape)
    letters: Letters = tuple(f"d{i}" if i != dim else None for i in range(rank))
    real = [shape != (0,) or rank == 1 for shape in shapes]
    sizes = tuple(shape[dim] for shape, counts in zip(shapes, real, strict=True) if counts)
    moves: tuple[Move, ...] = ()
    if sizes and all(isinstance(size, int) and size > 0 for size in sizes):
        parts = normalized(tuple(size for size in sizes if isinstance(size, int)))
        moves = (Move(f"d{dim}", tuple(Shard(dim) if counts else None for counts in real), (Shard(dim, parts),)),)
    inputs: tuple[Letters, ...] = tuple(letters if counts else (None,) for counts in real)
    return Rule(inputs, (letters,), linear=linear(node, graph), moves=moves)


def stack(node: Node, graph: Graph) -> Rule:
    """stack: a new dim that belongs to no axis."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 1, 0)
    letters: Letters = tuple(f"d{i}" for i in range(rank - 1))
    output = (*letters[:dim], None, *letters[dim:])
    return Rule((letters,) * len(node.inputs), (output,), linear=linear(node, graph))


RULES = {
    "aten.slice.Tensor": slice_,
    "aten.narrow.default": slice_,
    "aten.select.int": select,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": pad,
    "aten.split.Tensor": split,
    "aten.split.sizes": split,
    "aten.split_with_sizes.default": split,
    "aten.chunk.default": split,
    **dict.fromkeys(("aten.tensor_split.sections", "aten.tensor_split.indices"), split),
    **{f"aten.{name}split.{overload}": split_along for name in "hvd" for overload in ("int", "array")},
    "aten.diff.default": differences,
    "aten.glu.default": glu,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.hstack.default": stacked,
    "aten.vstack.default": stacked,
    "aten.dstack.default": stacked,
    "aten.column_stack.default": stacked,
    "aten.stack.default": stack,
    "aten.unbind.int": select,
}
