"""Matrix products: what is missing from the output is contracted."""

import string

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.letters import integers
from autopart.sharding.rule import Letters, Move, Rule


def matmul(node: Node, graph: Graph) -> Rule | None:
    """`torch.matmul`: batch dims aligned on the right and broadcast; a vector is a row, or a column on the right."""
    a, b = (graph.values[name].shape for name in node.inputs)
    if not a or not b:
        return None
    rank = max(len(a), len(b), 2)
    batch = tuple(f"b{dim}" for dim in range(rank - 2))

    def leading(shape: tuple[object, ...]) -> Letters:
        own = batch[rank - len(shape) :]
        return tuple(letter if size != 1 else None for letter, size in zip(own, shape[:-2], strict=True))

    rows: Letters = ("m",) if len(a) > 1 else ()
    columns: Letters = ("n",) if len(b) > 1 else ()
    left = (*leading(a), "m", "k") if len(a) > 1 else ("k",)
    right = (*leading(b), "k", "n") if len(b) > 1 else ("k",)
    kept = node.output.shape[: len(node.output.shape) - len(rows) - len(columns)]
    shared = tuple(letter if size != 1 else None for letter, size in zip(batch, kept, strict=True))
    return Rule((left, right), ((*shared, *rows, *columns),))


def einsum(node: Node, graph: Graph) -> Rule | None:
    """`torch.einsum`, whose equation is the rule; a letter twice in one operand, a diagonal, has none."""
    equation = node.args[0]
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    counts = {letter: left.count(letter) for letter in string.ascii_letters if letter in left}
    if not arrow:  # without an output, letters that stand once, in alphabetical order
        right = "..." * ("..." in left) + "".join(sorted(letter for letter, count in counts.items() if count == 1))
    if any(len(set(named)) != len(named) for named in (operand.replace("...", "") for operand in operands)):
        return None
    shapes = [graph.values[name].shape for name in node.inputs]
    spread = max(len(shape) - len(own.replace("...", "")) for shape, own in zip(shapes, operands, strict=True))

    def letters(own: str, rank: int) -> list[str]:
        before, dots, after = own.partition("...")
        count = rank - len(before) - len(after)
        return [*before, *(f".{spread - count + i}" for i in range(count if dots else 0)), *after]

    inputs = tuple(
        tuple(letter if size != 1 else None for letter, size in zip(letters(own, len(shape)), shape, strict=True))
        for own, shape in zip(operands, shapes, strict=True)
    )
    shape = node.output.shape
    output = tuple(
        letter if size != 1 else None for letter, size in zip(letters(right, len(shape)), shape, strict=True)
    )
    return Rule(inputs, (output,))


def inner(node: Node, graph: Graph) -> Rule | None:
    """`torch.inner`: the last dims are contracted."""
    a, b = (graph.values[name].shape for name in node.inputs)
    if not a or not b:
        return None
    rows, columns = (tuple(f"{name}{dim}" for dim in range(len(own) - 1)) for name, own in (("m", a), ("n", b)))
    return Rule(((*rows, "k"), (*columns, "k")), ((*rows, *columns),))


def tensordot(node: Node, graph: Graph) -> Rule:
    """`torch.tensordot` (a, b, dims of a, dims of b): the dims named are contracted in pairs."""
    ranks = [len(graph.values[name].shape) for name in node.inputs]
    named = [[dim % rank for dim in integers(dims)] for rank, dims in zip(ranks, node.args[2:4], strict=True)]
    inputs = []
    for side, rank, dims in zip("ab", ranks, named, strict=True):
        inputs.append(tuple(f"k{dims.index(dim)}" if dim in dims else f"{side}{dim}" for dim in range(rank)))
    output = tuple(letter for own in inputs for letter in own if not letter.startswith("k"))
    return Rule(tuple(inputs), (output,))


def chain(node: Node, graph: Graph) -> Rule | None:
    """`torch.linalg.multi_dot`: matrices, each one's columns contracted with the rows of the next."""
    count = len(node.inputs)
    if any(len(graph.values[name].shape) != 2 for name in node.inputs):
        return None
    return Rule(tuple((f"k{place}", f"k{place + 1}") for place in range(count)), (("k0", f"k{count}"),))


def kron(node: Node, graph: Graph) -> Rule:
    """`torch.kron`: a copy of the second operand for every element of the first, dim by dim."""
    shapes = [graph.values[name].shape for name in node.inputs]
    rank = len(node.output.shape)
    moves = []
    for dim in range(rank):
        places = [dim - (rank - len(shape)) for shape in shapes]
        if places[0] >= 0:
            moves.append(Move(f"a{dim}", (Shard(places[0]), None), (Shard(dim),)))
        outer = shapes[0][places[0]] if places[0] >= 0 else 1
        if places[1] >= 0 and isinstance(outer, int) and outer > 0:
            moves.append(Move(f"b{dim}", (None, Shard(places[1])), (Shard(dim, (1,) * outer),)))
    nothing: tuple[Letters, ...] = tuple((None,) * len(shape) for shape in shapes)
    return Rule(nothing, ((None,) * rank,), moves=tuple(moves))


RULES = {
    "aten.linear.default": "b* i, o i, o? -> b* o",
    "aten.bilinear.default": "b* i, b* j, o i j, o? -> b* o",
    "aten.mm.default": "m k, k n -> m n",
    "aten.mv.default": "m k, k -> m",
    "aten.dot.default": "k, k ->",
    "aten.vdot.default": "k, k ->",
    "aten.outer.default": "m, n -> m n",
    "aten.ger.default": "m, n -> m n",
    "aten.addmm.default": "n?, m k, k n -> m n",
    "aten.addmv.default": "m?, m k, k -> m",
    "aten.addr.default": "m n, m, n -> m n",
    "aten.addbmm.default": "m? n, b m k, b k n -> m n",
    "aten.bmm.default": "b m k, b k n -> b m n",
    "aten.baddbmm.default": "b? m n, b m k, b k n -> b m n",
    "aten.cdist.default": "b* m K, b* n K -> b* m n",
    "aten.matmul.default": matmul,
    "aten.einsum.default": einsum,
    "aten.inner.default": inner,
    "aten.tensordot.default": tensordot,
    "aten.linalg_multi_dot.default": chain,
    "aten.kron.default": kron,
}
