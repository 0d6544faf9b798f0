"""Groups: rows that stand in groups, each multiplied by a matrix of its own, are shared out with the matrices.

A rank that holds its share of the matrices needs the rows of these groups alone. Between one grouped product and the
next, what is computed row by row needs no other rows either:

    y[order] ──▶ own_rows ──▶ grouped_mm ──▶ silu, mul ──▶ grouped_mm ──▶ all_rows ──▶ put back ──▶ all_reduce
    R|P          S(0@ends)    S(0@ends)      S(0@ends)     S(0@ends)      P|R          P|R          R|R

Where the groups end is a value, known when the model runs; apart from that, own rows are a shard like any other, and so
are their gradients: `own_rows` slices, so its gradient is put into zeros and partial; `all_rows` puts into zeros, so
its gradient is sliced. This is the sharing of experts of GShard (Lepikhin et al. 2020, arXiv:2006.16668, section 3.2),
where all ranks have all tokens: one all-reduce a block, as for sharded rows and columns, and whole matrices.
"""

from collections.abc import Mapping
from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.ir.size import is_batched
from autopart.sharding.dispatch import Dispatch
from autopart.sharding.rule import Move, Rule
from autopart.sharding.rules import reshape
from autopart.sharding.rules.experts import GROUPED, ROWS

# Ops that are written with the sizes of their result, which own rows have only when the model runs.
SIZED = frozenset(reshape.RULES) | {"aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default"}


def share_groups(graph: Graph, rules: Mapping[str, Rule | None]) -> dict[str, Rule | None]:
    """The `rules` of the nodes of `graph`, with moves that share out groups of rows where that is possible."""
    dispatch = Dispatch(graph, rules)
    for node in graph.nodes:
        dispatch.visit(node)
    shared: dict[str, Rule | None] = dict(rules)
    for index, node in enumerate(graph.nodes):
        rule = rules.get(node.name)
        ends = dispatch.ends(node.output.name)
        if rule is None or ends is None or graph.producer[ends] > index or node.op in SIZED:
            continue
        move = _product(ends) if node.op in GROUPED else _row_by_row(node, graph, rule, ends)
        if move is not None:
            shared[node.name] = replace(rule, moves=(*rule.moves, move))
    return shared


def _product(ends: str) -> Move:
    rows = Shard(0, by=ends)
    return Move(ROWS, (rows, Shard(0), None), (rows,), call="grouped_mm")


def _row_by_row(node: Node, graph: Graph, rule: Rule, ends: str) -> Move | None:
    """Own rows in, own rows out; None where rows are not the first dim of every tensor that has them."""
    letters = {dims[0] for value, dims in zip(node.outputs, rule.outputs, strict=True) if is_batched(value.shape[0])}
    letter = next(iter(letters), None)
    if letter is None or len(letters) != 1 or any(dims[:1] != (letter,) for dims in rule.outputs):
        return None
    if any(letter in dims[1:] for dims in (*rule.inputs, *rule.outputs)):
        return None
    rows = Shard(0, by=ends)
    inputs = tuple(rows if letter in dims else None for dims in rule.inputs)
    return Move(ROWS, inputs, (rows,) * len(node.outputs))
