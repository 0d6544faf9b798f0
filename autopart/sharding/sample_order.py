"""Sample order: where the samples stand inside the dims that they were merged into.

`(length, b, width)` viewed as `(length * b, width)` has the rows of a sample apart, `(b, length, width)` has them
together. Both are `length * b` rows, and a part of the batch can be computed for itself in either order, but not where
one order meets the other: row i of the one is then of another sample than row i of the other.
"""

from collections.abc import Mapping
from math import prod

import sympy

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.size import BATCH, Size, is_batched
from autopart.sharding.rule import Rule
from autopart.sharding.rules import reshape

# The factor of a dim that stands before the samples: 1 where a sample's entries lie together. A name where nothing is
# known but that it is the order of that value; None where all samples are alike, so that any order is theirs.
Before = int | str | None


def rows_apart(graph: Graph, rules: Mapping[str, Rule | None]) -> frozenset[str]:
    """The outputs of `graph` in which a sample's rows do not lie together: those of micro-batches make no whole."""
    order = SampleOrder(graph, rules)
    for node in graph.nodes:
        order.visit(node)
    return frozenset(name for name in graph.outputs if not order.together(name))


class SampleOrder:
    """Follows the order of samples from node to node; `visit` them as they stand in the graph."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule | None]) -> None:
        self._graph, self._rules = graph, rules
        self._before: dict[tuple[str, int], Before] = {}
        for value in graph.values.values():
            for dim, size in enumerate(value.shape):
                if is_batched(size) and value.name not in graph.producer:
                    self._before[value.name, dim] = 1

    def together(self, name: str) -> bool:
        """Whether each sample's entries of the value lie together in the dim that holds the batch."""
        dims = range(len(self._graph.values[name].shape))
        return all(self._before.get((name, dim)) in (1, None) for dim in dims)

    def visit(self, node: Node) -> bool:
        """Whether all inputs of `node` have their samples in one order, which its outputs then have."""
        rule = self._rules.get(node.name)
        if node.op in (ENTER, LEAVE):
            self._pass_on(node)
            return True
        if node.op in reshape.RULES:
            return self._reshape(node)
        if rule is None:
            self._forget(node)
            return True
        orders: dict[str, Before] = {}
        fine = True
        for dims, name in zip(rule.inputs, node.inputs, strict=True):
            for dim, letter in enumerate(dims):
                before = self._before.get((name, dim))
                if letter is None or before is None:
                    continue
                fine = fine and orders.setdefault(letter, before) == before
        self._forget(node)
        for letters, value in zip(rule.outputs, node.outputs, strict=True):
            for dim, letter in enumerate(letters):
                if letter is not None and is_batched(value.shape[dim]):
                    self._before[value.name, dim] = orders.get(letter)
        return fine

    def _pass_on(self, node: Node) -> None:
        for dim, size in enumerate(node.output.shape):
            if is_batched(size):
                self._before[node.output.name, dim] = self._before.get((node.inputs[0], dim))

    def _forget(self, node: Node) -> None:
        for value in node.outputs:
            for dim, size in enumerate(value.shape):
                if is_batched(size):
                    self._before[value.name, dim] = 1 if size == BATCH or not self._batched(node) else value.name

    def _batched(self, node: Node) -> bool:
        return any(is_batched(size) for name in node.inputs for size in self._graph.values[name].shape)

    def _reshape(self, node: Node) -> bool:
        """The samples stay where they are; what comes before them may fall into other dims."""
        source, result = self._graph.values[node.inputs[0]].shape, node.output.shape
        fine = True
        for ins, outs in reshape.groups(source, result):
            given = [dim for dim in ins if is_batched(source[dim])]
            taken = [dim for dim in outs if is_batched(result[dim])]
            if not given or not taken:
                continue
            before = self._before.get((node.inputs[0], given[0]))
            if isinstance(before, str):  # unknown: fine where the dims stay
                same = [source[dim] for dim in ins] == [result[dim] for dim in outs]
                fine, before = fine and same, before if same else node.output.name
            elif before is not None:
                outside = prod(_number(source[dim]) for dim in ins if dim < given[0]) * before
                left = prod(_number(result[dim]) for dim in outs if dim < taken[0])
                fits = outside % left == 0 and _factor(result[taken[0]]) % (outside // left) == 0
                fine, before = fine and fits, outside // left if fits else node.output.name
            self._before[node.output.name, taken[0]] = before
        return fine


def _number(size: Size) -> int:
    return size if isinstance(size, int) else 1


def _factor(size: Size) -> int:
    """What a dim of samples has besides them; 1 where it is no multiple of their number."""
    times, rest = sympy.sympify(size).as_coeff_Mul()
    return int(times) if rest == BATCH and times.is_Integer else 1
