"""Strategies: all the ways in which the ranks of one mesh axis can compute one node."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.kept import KEPT, is_elementwise
from autopart.ir.placement import (
    PARTIAL_GRADIENT,
    PARTIAL_VALUE,
    REPLICATED,
    Layout,
    Partial,
    Replicate,
    Shard,
    divides,
    sharded,
)
from autopart.ir.size import Size
from autopart.sharding.rule import Move, Rule

Parts = tuple[int, ...]
PartsOf = Mapping[tuple[str, int], frozenset[Parts]]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way: the layouts that the node wants of its inputs and gives to its outputs.

    Attributes:
        letter: the axis that is sharded, "" where every rank does the whole work.
        inputs: one layout for every tensor argument in order.
        outputs: one for every output.
        scale: whether the result must be divided by the degree (a mean over a shard).
        call: the runtime function that takes the op's place, or None.
        divided: whether each rank does its share of the work only.
    """

    letter: str
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    scale: bool = False
    call: str | None = None
    divided: bool = True


def strategies(node: Node, graph: Graph, rule: Rule | None, parts_of: PartsOf, degree: int) -> tuple[Strategy, ...]:
    """All strategies of `node` on `degree` ranks; the first one replicates and is always there.

    Args:
        node: a node of `graph`.
        graph: gives the shapes.
        rule: what `find_rule` says of the node.
        parts_of: the parts in which each (value, dim) may be asked for, besides one.
        degree: the number of ranks; sizes that it does not divide are not sharded.
    """
    if node.op in (ENTER, LEAVE):
        return tuple(
            Strategy(str(x), (x,), (x,), divided=False) for x in carried_layouts(node, graph, parts_of, degree)
        )
    names = node.inputs
    count = len(names)
    shapes = [graph.values[name].shape for name in names] + [value.shape for value in node.outputs]
    found = [Strategy("", (REPLICATED,) * count, (REPLICATED,) * len(node.outputs), divided=False)]
    if node.op == KEPT and not is_elementwise(node):  # it takes its weights by itself, whole and with whole gradients
        return tuple(found)
    if any(value.requires_grad for value in node.outputs):
        # A gradient is linear in the gradient of the output: where all ranks compute the same, it may stay partial.
        found.append(Strategy("", (PARTIAL_GRADIENT,) * count, (PARTIAL_GRADIENT,) * len(node.outputs), divided=False))
    if rule is not None and degree > 1:
        if rule.linear:
            given = tuple(PARTIAL_VALUE if i in rule.linear else REPLICATED for i in range(count))
            found.append(Strategy("", given, (PARTIAL_VALUE,) * len(node.outputs), divided=False))
        for move in (*_letter_moves(node, names, rule, parts_of), *_deeper_moves(node, rule, parts_of)):
            strategy = _strategy(shapes, rule, move, degree)
            if strategy is not None:
                found.append(strategy)
    trained = [graph.values[name].requires_grad for name in names], [value.requires_grad for value in node.outputs]
    if not all(map(all, trained)):
        found = [_without_gradients(strategy, *trained) for strategy in found]
    return tuple(dict.fromkeys(found))


def carried_layouts(node: Node, graph: Graph, parts_of: PartsOf, degree: int) -> tuple[Layout, ...]:
    """The layouts that a value carried around a loop may have."""
    value = node.output
    layouts = [REPLICATED, PARTIAL_VALUE]
    if value.requires_grad:
        layouts.append(PARTIAL_GRADIENT)
    for dim in range(len(value.shape)):
        for parts in sorted({(1,), *parts_of.get((value.name, dim), frozenset())}):
            if divides(Shard(dim, parts), value.shape, degree):
                layouts.append(sharded(dim, parts))
    return tuple(layouts)


def _letter_moves(node: Node, names: tuple[str, ...], rule: Rule, parts_of: PartsOf) -> list[Move]:
    """A move for every free letter and every parts in which one of its dims is asked for."""
    moves = []
    for letter in rule.letters:
        contracted = not any(letter in dims for dims in rule.outputs)
        if letter in rule.whole or (contracted and rule.counts is not None):
            continue
        places = [(name, dims.index(letter)) for name, dims in zip(names, rule.inputs, strict=True) if letter in dims]
        places += [
            (v.name, dims.index(letter)) for v, dims in zip(node.outputs, rule.outputs, strict=True) if letter in dims
        ]
        asked = {(1,)}.union(*(parts_of.get(place, frozenset()) for place in places))
        for parts in sorted(asked):
            inputs = tuple(Shard(dims.index(letter), parts) if letter in dims else None for dims in rule.inputs)
            outputs = tuple(Shard(dims.index(letter), parts) if letter in dims else None for dims in rule.outputs)
            moves.append(Move(letter, inputs, outputs))
    return moves


def _deeper_moves(node: Node, rule: Rule, parts_of: PartsOf) -> list[Move]:
    """The rule's own moves, and those that a neighbour's parts make of them."""
    moves = list(rule.moves)
    for move in rule.moves:
        for parts in sorted(deeper_parts(node, move, parts_of)):
            inputs = tuple(shard and Shard(shard.dim, parts * len(shard.parts)) for shard in move.inputs)
            outputs = tuple(shard and Shard(shard.dim, parts * len(shard.parts)) for shard in move.outputs)
            moves.append(replace(move, inputs=inputs, outputs=outputs))
    return moves


def deeper_parts(node: Node, move: Move, parts_of: PartsOf) -> frozenset[Parts]:
    """Further parts for a move whose pieces are all equal: `parts` inside each of its pieces."""
    shards = [shard for shard in (*move.inputs, *move.outputs) if shard is not None]
    if any(set(shard.parts) != {1} or shard.by is not None for shard in shards) or move.call:
        return frozenset()
    names = (*node.inputs, *(value.name for value in node.outputs))
    found: set[Parts] = set()
    for name, shard in zip(names, (*move.inputs, *move.outputs), strict=True):
        if shard is None:
            continue
        count = len(shard.parts)
        for parts in parts_of.get((name, shard.dim), frozenset()):
            inner = parts[: len(parts) // count]
            if len(parts) % count == 0 and len(inner) > 1 and inner * count == parts:
                found.add(inner)
    return frozenset(found)


def _strategy(shapes: list[tuple[Size, ...]], rule: Rule, move: Move, degree: int) -> Strategy | None:
    for shape, shard in zip(shapes, (*move.inputs, *move.outputs), strict=True):
        if shard is not None and not divides(shard, shape, degree):
            return None
        if shard is not None and move.units is not None and not divides(Shard(0, shard.parts), (move.units,), degree):
            return None
    contracted = all(shard is None for shard in move.outputs)
    if contracted and all(shard is None for shard in move.inputs):
        return None
    if not contracted and any(shard is None for shard in move.outputs):
        return None
    inputs = []
    for index, shard in enumerate(move.inputs):
        if shard is not None:
            inputs.append(_sharded(shard))
        elif contracted and index in rule.once:
            inputs.append(PARTIAL_VALUE)
        elif contracted and move.reduces:
            inputs.append(REPLICATED)
        else:
            inputs.append(PARTIAL_GRADIENT)
    if contracted:
        outputs = [REPLICATED if move.reduces else PARTIAL_VALUE] * len(move.outputs)
    else:
        outputs = [_sharded(shard) for shard in move.outputs if shard is not None]
    scale = contracted and rule.mean and not move.reduces
    return Strategy(move.letter, tuple(inputs), tuple(outputs), scale=scale, call=move.call)


def _sharded(shard: Shard) -> Layout:
    return Layout(shard, shard) if shard.by is not None else sharded(shard.dim, shard.parts)


def _without_gradients(strategy: Strategy, inputs: list[bool], outputs: list[bool]) -> Strategy:
    """`strategy`, where the inputs and outputs that have gradients are those said."""
    ins = zip(strategy.inputs, inputs, strict=True)
    outs = zip(strategy.outputs, outputs, strict=True)
    return replace(
        strategy,
        inputs=tuple(layout if trained else without_gradient(layout) for layout, trained in ins),
        outputs=tuple(layout if trained else without_gradient(layout) for layout, trained in outs),
    )


def without_gradient(layout: Layout) -> Layout:
    """The layout of a value that has no gradient: R|P is then R|R."""
    return Layout(layout.value, Replicate()) if isinstance(layout.gradient, Partial) else layout
