"""Canonical order: tables and masks in the order in which they are first used, and not in that in which they were made.

Code that walks a set makes them in another order in every process, as Python's hashes have a seed of their own in each;
ranks and plans must find one graph.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from autopart.ir.graph import Graph, Node


def in_canonical_order(graph: Graph) -> Graph:
    """`graph` with those of its nodes in canonical order that inputs and constants decide, and that stand together.

    They stay between the same other nodes: what each of several layers makes for itself is still made in the layer.
    """
    ranks = _ranks(graph)
    nodes: list[Node] = []
    for _, run in groupby(graph.nodes, lambda node: node.output.name in graph.recomputable):
        nodes += sorted(run, key=lambda node: ranks.get(node.name, 0))  # others have no rank, and stay as they stand
    return replace(graph, nodes=tuple(nodes))


def _ranks(graph: Graph) -> dict[str, int]:
    """By the names of such nodes, when the others come to need them; what a node takes is before it."""
    ranks: dict[str, int] = {}

    def reach(names: Iterable[str]) -> None:
        pending = [(name, False) for name in reversed(list(names))]
        while pending:
            name, complete = pending.pop()
            if name not in graph.producer or name not in graph.recomputable:
                continue
            node = graph.nodes[graph.producer[name]]
            if complete:
                ranks.setdefault(node.name, len(ranks))
            elif node.name not in ranks:
                pending.append((name, True))
                pending += [(own, False) for own in reversed(node.inputs)]

    for node in graph.nodes:
        if node.output.name not in graph.recomputable:
            reach(node.inputs)
    reach(graph.outputs)
    reach(update.value for update in graph.updates)
    return ranks
