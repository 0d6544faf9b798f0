"""Filled: an empty tensor that a model fills piece by piece is, without the filling, those pieces side by side."""

from dataclasses import dataclass, replace

from autopart.ir.graph import Arg, Graph, Literal, Node, Ref, Value

EMPTY = ("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions `start` to `stop` of the dim that is filled, and the value there."""

    start: int
    stop: int
    value: str


@dataclass(frozen=True, slots=True)
class _Filling:
    """What of an empty tensor is filled so far, along `dim`."""

    dim: int | None = None
    pieces: tuple[_Piece, ...] = ()


def without_filling(graph: Graph) -> Graph:
    """`graph` with copies as expansions of what is copied, and fully filled tensors as concatenations.

    Export writes `x = empty(...); x[..., :8] = a; x[..., 8:] = b` as copies and scatters of slices. The nodes that
    nothing uses any more are left for dead ones to be dropped.
    """
    nodes: list[Node] = []
    fillings: dict[str, _Filling] = {}
    known = dict(graph.values)
    for node in graph.nodes:
        if node.op in EMPTY:
            fillings[node.output.name] = _Filling()
        if node.op == "aten.copy.default" and isinstance(node.args[1], Ref):
            nodes += _copied(node, known[node.args[1].name])
        elif node.op == "aten.slice_scatter.default" and (filling := _scattered(node, fillings)) is not None:
            fillings[node.output.name] = filling
            size = node.output.shape[filling.dim or 0]
            nodes.append(_joined(node, filling, known) if _is_full(filling, size) else node)
        else:
            nodes.append(node)
        known.update((value.name, value) for value in nodes[-1].outputs)
    return replace(graph, nodes=tuple(nodes))


def _copied(node: Node, source: Value) -> list[Node]:
    """`copy(x, source)`: the source in the dtype and shape of x, of which nothing else is read."""
    made: list[Node] = []
    result = replace(node.output, requires_grad=source.requires_grad)
    if source.dtype != result.dtype:
        cast = replace(source, name=f"{result.name}_cast", dtype=result.dtype)
        dtype = (("dtype", Literal("dtype", f"torch.{result.dtype}")),)
        made.append(
            replace(
                node, name=cast.name, op="aten._to_copy.default", args=(node.args[1],), kwargs=dtype, outputs=(cast,)
            )
        )
        source = cast
    args: tuple[Arg, ...] = (Ref(source.name), result.shape)
    made.append(replace(node, op="aten.expand.default", args=args, kwargs=(), outputs=(result,)))
    return made


def _scattered(node: Node, fillings: dict[str, _Filling]) -> _Filling | None:
    """The filling after `slice_scatter(x, source, dim, start, end, step)`; None where x is no empty tensor."""
    base, source = node.args[:2]
    if not isinstance(base, Ref) or not isinstance(source, Ref) or base.name not in fillings:
        return None
    before = fillings[base.name]
    dim, step = node.arg(2, "dim", 0), node.arg(5, "step", 1)
    size = node.output.shape[dim] if isinstance(dim, int) else None
    if not isinstance(dim, int) or not isinstance(size, int) or step != 1:
        return None
    dim %= len(node.output.shape)
    start = _position(node.arg(3, "start"), size, 0)
    stop = _position(node.arg(4, "end"), size, size)
    if before.dim not in (None, dim) or start is None or stop is None:
        return None
    kept = tuple(piece for piece in before.pieces if piece.stop <= start or piece.start >= stop)
    if len(kept) < len(before.pieces):
        return None  # written twice
    return _Filling(dim, (*kept, _Piece(start, stop, source.name)))


def _position(given: Arg, size: int, missing: int) -> int | None:
    if given is None:
        return missing
    if not isinstance(given, int):
        return None
    return min(given, size) if given >= 0 else max(given + size, 0)


def _is_full(filling: _Filling, size: object) -> bool:
    return isinstance(size, int) and sum(piece.stop - piece.start for piece in filling.pieces) == size


def _joined(node: Node, filling: _Filling, known: dict[str, Value]) -> Node:
    names = [piece.value for piece in sorted(filling.pieces, key=lambda piece: piece.start)]
    result = replace(node.output, requires_grad=any(known[name].requires_grad for name in names))
    pieces: Arg = tuple(Ref(name) for name in names)
    return replace(node, op="aten.cat.default", args=(pieces, filling.dim), kwargs=(), outputs=(result,))
