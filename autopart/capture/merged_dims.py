"""Merged dims: a dim into which a view puts samples and something else, until another view takes them apart again.

Attention often makes one dim of samples and heads, for the products of matrices that take one dim of them:

    (b, L, 4, 8) ── transpose, view ──▶ (4*b, L, 8) ── bmm, softmax, bmm ──▶ (4*b, L, 8) ── view, ... ──▶ (b, L, 32)

As long as they are one dim, heads cannot be shared out: they are every fourth row, of a number of rows not known yet.
All that is done in between is done for every row by itself, so it is the same with two dims as with one:

    (b, L, 4, 8) ── transpose ──▶ (b, 4, L, 8) ── matmul, softmax, matmul ──▶ (b, 4, L, 8) ── ... ──▶ (b, L, 32)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import sympy

from autopart.ir.graph import Arg, Graph, Node, Ref, Value
from autopart.ir.size import Size, is_batched
from autopart.sharding.letters import axis
from autopart.sharding.rules import elementwise
from autopart.sharding.rules.reshape import groups
from autopart.sharding.rules.view import permutation

VIEWS = frozenset(f"aten.{name}" for name in ("view.default", "reshape.default", "_unsafe_view.default"))
FLATTENINGS = frozenset(f"aten.{name}" for name in ("flatten.using_ints", "unflatten.int"))
TRANSPOSES = frozenset(f"aten.{name}" for name in ("transpose.int", "permute.default", "swapaxes.default"))
SOFTMAXES = frozenset(f"aten.{name}" for name in ("softmax.int", "_softmax.default", "log_softmax.int"))
ALIKE = frozenset(elementwise.RULES) | {"aten.dropout.default"}
RESHAPE, MATMUL, ADD, BMM = (
    f"aten.{name}" for name in ("reshape.default", "matmul.default", "add.Tensor", "bmm.default")
)


@dataclass(frozen=True, slots=True)
class Apart:
    """A value with its merged dims apart.

    Attributes:
        value: the same numbers in the same order, in more dims.
        sizes: for each dim of the value as it was, the sizes that make it.
        nodes: what computes it.
        needs: the merged values whose own forms apart it is computed from.
    """

    value: Value
    sizes: tuple[tuple[Size, ...], ...]
    nodes: tuple[Node, ...] = ()
    needs: tuple[str, ...] = ()

    def first(self, dim: int) -> int:
        """Where the dims begin that make `dim`."""
        return sum(map(len, self.sizes[:dim]))

    @property
    def trailing(self) -> int:
        """How many of the last dims are as they were."""
        merged = max((dim for dim, sizes in enumerate(self.sizes) if len(sizes) > 1), default=-1)
        return len(self.sizes) - 1 - merged


def without_merged_dims(graph: Graph) -> Graph:
    """`graph` in which no view merges samples with another dim, where another view takes them apart later on.

    The nodes that nothing uses any more are left for dead ones to be dropped.
    """
    apart: dict[str, Apart] = {}
    for node in graph.nodes:
        merged = any(name in apart for name in node.inputs)
        found = _kept(node, graph, apart) if merged else _merged(node, graph)
        if found is not None:
            apart[node.output.name] = found
    apart = _ending(graph, apart)
    if not apart:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        source = apart.get(node.inputs[0]) if node.inputs else None
        if node.output.name in apart:
            nodes += apart[node.output.name].nodes
        elif source is not None:
            nodes.append(replace(node, op=RESHAPE, args=(Ref(source.value.name), node.output.shape), kwargs=()))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _ending(graph: Graph, apart: Mapping[str, Apart]) -> dict[str, Apart]:
    """Of the values that could be computed apart, those from which all ways lead to views."""
    left = dict(apart)
    kept = graph.leaving | {update.value for update in graph.updates}
    while True:
        lost = [
            name
            for name, own in left.items()
            if name in kept
            or not all(need in left for need in own.needs)
            or not all(_ends(graph.nodes[index], name, left) for index in graph.consumers[name])
        ]
        if not lost:
            return left
        for name in lost:
            del left[name]


def _ends(user: Node, name: str, apart: Mapping[str, Apart]) -> bool:
    """Whether `user` is computed apart from `name`, or is a view of it."""
    own = apart.get(user.output.name)
    return name in own.needs if own is not None else user.op in VIEWS | FLATTENINGS


def _merged(node: Node, graph: Graph) -> Apart | None:
    """A view that puts samples into one dim with another, or a repetition for every sample."""
    if node.op == "aten.repeat.default":
        return _repeated(node, graph)
    if node.op not in VIEWS | FLATTENINGS:
        return None
    source, result = graph.values[node.inputs[0]], node.output
    sizes: list[tuple[Size, ...]] = [(size,) for size in result.shape]
    for ins, outs in groups(source.shape, result.shape):
        if len(ins) < 2 or not any(is_batched(source.shape[dim]) for dim in ins):
            continue
        parts = tuple(_factors([source.shape[dim] for dim in ins], [result.shape[dim] for dim in outs]))
        if len(parts) == len(outs):
            sizes[outs[0] : outs[-1] + 1] = parts
    if all(len(own) == 1 for own in sizes):
        return None
    shape = tuple(size for own in sizes for size in own)
    if shape == source.shape:
        return Apart(source, tuple(sizes))
    value = _named(result, shape)
    return Apart(value, tuple(sizes), (_call(node, RESHAPE, (Ref(source.name), shape), value),))


def _repeated(node: Node, graph: Graph) -> Apart | None:
    """What stands in the first dim, once for every sample: with samples as a dim of their own, an expansion."""
    shape, result = graph.values[node.inputs[0]].shape, node.output
    if len(shape) != len(result.shape) or shape[1:] != result.shape[1:] or shape[0] == 1:
        return None
    times = _quotient(result.shape[0], shape[0])
    if not is_batched(times):
        return None
    value = _named(result, (times, *shape))
    sizes = ((times, shape[0]), *((size,) for size in shape[1:]))
    return Apart(value, sizes, (_call(node, "aten.expand.default", (Ref(node.inputs[0]), value.shape), value),))


def _factors(source: list[Size], result: list[Size]) -> Iterator[tuple[Size, ...]]:
    """For every size of `result`, the sizes that make it, in which those of `source` are apart; fewer if that fails."""
    left: Size = 1
    for size in result:
        rest, own = size, list[Size]()
        while rest != 1:
            if left == 1:
                left = source.pop(0) if source else 1
                if left == 1 and not source:
                    return
                continue
            factor = left if _divides(left, rest) else rest if _divides(rest, left) else None
            if factor is None:
                return
            own.append(factor)
            rest, left = _quotient(rest, factor), _quotient(left, factor)
        yield tuple(own) or (size,)


def _quotient(size: Size, factor: Size) -> Size:
    found = sympy.cancel(sympy.sympify(size) / factor)
    return int(found) if found.is_Integer else found


def _divides(factor: Size, size: Size) -> bool:
    found = sympy.cancel(sympy.sympify(size) / factor)
    return bool(found.is_Integer or (found.is_integer and found.is_polynomial()))


def _kept(node: Node, graph: Graph, apart: Mapping[str, Apart]) -> Apart | None:
    """What is computed for each row of the merged dims by itself."""
    given = [apart.get(name) for name in node.inputs]
    found = None
    if node.op in TRANSPOSES:
        found = _transposed(node, apart[node.inputs[0]])
    elif node.op in SOFTMAXES:
        found = _softmax(node, apart[node.inputs[0]])
    elif node.op in (BMM, "aten.baddbmm.default"):
        found = _product(node, graph, given)
    elif node.op in ALIKE and len(node.outputs) == 1:
        found = _alike(node, graph, given)
    return found and replace(found, needs=tuple(name for name in node.inputs if name in apart))


def _transposed(node: Node, source: Apart) -> Apart:
    order = permutation(node, len(source.sizes))
    sizes = tuple(source.sizes[dim] for dim in order)
    moved = tuple(source.first(dim) + place for dim in order for place in range(len(source.sizes[dim])))
    return _computed(node, "aten.permute.default", (Ref(source.value.name), moved), sizes)


def _softmax(node: Node, source: Apart) -> Apart | None:
    dim = axis(node, len(source.sizes), 1, -1)
    if len(source.sizes[dim]) > 1:
        return None
    return _computed(node, node.op, (Ref(source.value.name), source.first(dim), *node.args[2:]), source.sizes)


def _product(node: Node, graph: Graph, given: list[Apart | None]) -> Apart | None:
    """A product of matrices, one for each row of the merged dim, which is the first; what is added to it goes along."""
    left, right = given[-2:]
    if left is None or right is None or left.sizes[0] != right.sizes[0]:
        return None
    if any(len(size) > 1 for own in (left, right) for size in own.sizes[1:]):
        return None
    sizes = (left.sizes[0], left.sizes[1], right.sizes[2])
    product = _computed(node, MATMUL, (Ref(left.value.name), Ref(right.value.name)), sizes)
    if node.op == BMM:
        return product
    added, name = given[0], node.inputs[0]
    alike = added.sizes[0] == sizes[0] if added is not None else _broadcasts(graph.values[name], product)
    if not alike or node.arg(3, "beta", 1) != 1:
        return None
    value = replace(product.value, name=f"{product.value.name}_product")
    (made,) = product.nodes
    alpha = (("alpha", node.arg(4, "alpha", 1)),) if node.arg(4, "alpha", 1) != 1 else ()
    total = _call(
        node, ADD, (Ref(added.value.name if added is not None else name), Ref(value.name)), product.value, alpha
    )
    return replace(product, nodes=(replace(made, outputs=(value,)), total))


def _broadcasts(value: Value, own: Apart) -> bool:
    """Whether `value`, which is not apart, is the same for all rows of the merged dims."""
    return all(size == 1 for size in value.shape[: max(0, len(value.shape) - own.trailing)])


def _alike(node: Node, graph: Graph, given: list[Apart | None]) -> Apart | None:
    """An elementwise op, whose operands are apart alike, or have none of the merged dims."""
    known = [own for own in given if own is not None]
    if any(len(own.sizes) != len(node.output.shape) for own in known):
        return None
    sizes = []
    for dim, whole in enumerate(node.output.shape):
        found = {own.sizes[dim] for own in known} - {(1,)} or {(whole,)}
        if len(found) != 1:
            return None
        sizes.append(found.pop())
    if any(len(size) != len(mine) for own in known for size, mine in zip(own.sizes, sizes, strict=True)):
        return None
    result = Apart(node.output, tuple(sizes))
    others = [name for name, own in zip(node.inputs, given, strict=True) if own is None]
    if not all(_broadcasts(graph.values[name], result) for name in others):
        return None
    renamed = {name: own.value.name for name, own in zip(node.inputs, given, strict=True) if own is not None}

    def inner(arg: Arg) -> Arg:
        if isinstance(arg, Ref):
            return Ref(renamed.get(arg.name, arg.name))
        return tuple(map(inner, arg)) if isinstance(arg, tuple) else arg

    kwargs = tuple((key, inner(arg)) for key, arg in node.kwargs)
    return _computed(node, node.op, tuple(map(inner, node.args)), tuple(sizes), kwargs)


def _computed(
    node: Node,
    op: str,
    args: tuple[Arg, ...],
    sizes: tuple[tuple[Size, ...], ...],
    kwargs: tuple[tuple[str, Arg], ...] = (),
) -> Apart:
    value = _named(node.output, tuple(size for own in sizes for size in own))
    return Apart(value, sizes, (_call(node, op, args, value, kwargs),))


def _named(merged: Value, shape: tuple[Size, ...]) -> Value:
    return replace(merged, name=f"{merged.name}_apart", shape=shape)


def _call(node: Node, op: str, args: tuple[Arg, ...], value: Value, kwargs: tuple[tuple[str, Arg], ...] = ()) -> Node:
    return replace(node, name=value.name, op=op, args=args, kwargs=kwargs, outputs=(value,))
