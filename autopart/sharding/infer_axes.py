"""Infer the logical axes of a model: which dims of which tensors are one axis, and in which parts an axis may be cut.

Union-find over (value, dim): a rule's letter joins the dims that it stands for. Views, splits and concatenations cut a
dim into parts; what one op asks for spreads along the axis, so that a fused qkv projection learns that it must be cut
into three.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import networkx

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph
from autopart.ir.placement import normalized
from autopart.ir.size import Size
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Parts, PartsOf, deeper_parts

Place = tuple[str, int]
SEQUENCE = "sequence"  # the second dim of an input
MOST_ROUNDS = 6
MOST_PARTS = 64
MOST_KINDS = 32  # of parts an axis; a scan that cuts at every step would ask for one a step, of every node on the axis


@dataclass(frozen=True, slots=True)
class Axis:
    """A logical axis. `name` is what a rule calls it, or the first parameter dim that lies on it; `size` its length."""

    name: str
    size: Size


@dataclass(frozen=True)
class Axes:
    """The axes of a graph, the axis of every (value, dim), and the parts in which each may be asked for."""

    axes: tuple[Axis, ...]
    axis_of: Mapping[Place, Axis]
    parts_of: PartsOf


def infer_axes(graph: Graph, rules: Mapping[str, Rule | None]) -> Axes:
    """The axes of `graph`, given the rule of every node by its name."""
    union: networkx.utils.UnionFind = networkx.utils.UnionFind()
    hints: list[tuple[Place, str]] = []
    for node in graph.nodes:
        names = (*node.inputs, *(value.name for value in node.outputs))
        if node.op in (ENTER, LEAVE):
            for dim in range(len(node.output.shape)):
                union.union((names[0], dim), (names[1], dim))
        rule = rules.get(node.name)
        if rule is None:
            continue
        known = dict(rule.names)
        for letter in rule.letters:
            dims = (*rule.inputs, *rule.outputs)
            places = [(name, own.index(letter)) for name, own in zip(names, dims, strict=True) if letter in own]
            union.union(*places)
            hints += [(places[0], known[letter])] if letter in known else []
    _join_loops(graph, union)
    parts_of = _spread_parts(graph, rules, union)
    return _named(graph, union, hints, parts_of)


def _join_loops(graph: Graph, union: networkx.utils.UnionFind) -> None:
    """A value that goes around a loop is one tensor: what leaves a run is what enters the next."""
    enters = [node for node in graph.nodes if node.op == ENTER]
    leaves = [node for node in graph.nodes if node.op == LEAVE]
    for enter, leave in zip(enters, leaves, strict=True):
        for dim in range(len(enter.output.shape)):
            union.union((enter.output.name, dim), (leave.output.name, dim))


def _spread_parts(graph: Graph, rules: Mapping[str, Rule | None], union: networkx.utils.UnionFind) -> PartsOf:
    asked: dict[Place, set[Parts]] = {}

    def ask(name: str, dim: int, parts: Parts) -> bool:
        parts = normalized(parts)
        known = asked.setdefault(union[(name, dim)], set())
        if len(parts) == 1 or len(parts) > MOST_PARTS or parts in known or len(known) >= MOST_KINDS:
            return False
        known.add(parts)
        return True

    moving = [(node, rule) for node in graph.nodes if (rule := rules.get(node.name)) is not None and rule.moves]
    for _ in range(MOST_ROUNDS):
        view: dict[Place, frozenset[Parts]] = {}
        changed = False
        for node, rule in moving:
            names = (*node.inputs, *(value.name for value in node.outputs))
            for move in rule.moves:
                shards = (*move.inputs, *move.outputs)
                for name, shard in zip(names, shards, strict=True):
                    if shard is not None:
                        place = (name, shard.dim)
                        changed |= ask(*place, shard.parts)
                        view[place] = frozenset(asked[union[place]])
                for inner in deeper_parts(node, move, view):
                    for name, shard in zip(names, shards, strict=True):
                        if shard is not None:
                            changed |= ask(name, shard.dim, inner * len(shard.parts))
        if not changed:
            break
    return {
        (value.name, dim): frozenset(asked[union[(value.name, dim)]])
        for value in graph.values.values()
        for dim in range(len(value.shape))
        if union[(value.name, dim)] in asked
    }


def _named(graph: Graph, union: networkx.utils.UnionFind, hints: list[tuple[Place, str]], parts_of: PartsOf) -> Axes:
    names: dict[Place, str] = {}
    for place, name in hints:
        names.setdefault(union[place], name)
    for item in graph.inputs:
        for dim in range(len(item.value.shape)):
            names.setdefault(
                union[(item.value.name, dim)], "batch" if dim == 0 else SEQUENCE if dim == 1 else f"{item.path}.{dim}"
            )
    for parameter in graph.parameters:
        owner = parameter.target.rsplit(".", 1)[0]
        for dim in range(len(parameter.value.shape)):
            names.setdefault(union[(parameter.value.name, dim)], f"{owner}[{dim}]")
    axes: dict[Place, Axis] = {}
    axis_of: dict[Place, Axis] = {}
    for value in graph.values.values():
        for dim, size in enumerate(value.shape):
            root = union[(value.name, dim)]
            if root not in axes:
                axes[root] = Axis(names.get(root, f"{value.name}[{dim}]"), size)
            axis_of[(value.name, dim)] = axes[root]
    return Axes(tuple(dict.fromkeys(axes.values())), axis_of, parts_of)
