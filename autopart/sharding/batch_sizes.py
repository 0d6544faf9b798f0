"""Batch sizes: which numbers of samples a graph can be computed with.

A model that takes samples in pairs, or two of them apart, was captured with a batch that has enough; a micro-batch is
smaller. Of its shapes in the number of samples, some then come out empty, or unlike each other.
"""

from math import prod

import sympy

from autopart.ir.graph import Graph, Node
from autopart.ir.size import BATCH, Size, evaluate, is_batched
from autopart.sharding.rules import elementwise, reshape

CHOOSING = {"aten.topk.default": 2, "aten.kthvalue.default": 2}  # where the dim stands among the arguments
MOST = 4  # sizes that a message names


class BatchSizes:
    """Knows of a graph which sizes of a batch fit; those that do not are few or none."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._delicate = tuple(node for node in graph.nodes if _is_delicate(node, graph))
        self._known: dict[int, str | None] = {}

    def misfit(self, samples: int) -> str | None:
        """Why the graph cannot be computed with so many samples, and with how many it can; None where it can."""
        if samples not in self._known:
            self._known[samples] = self._found(samples)
        return self._known[samples]

    def _found(self, samples: int) -> str | None:
        for node in self._delicate:
            if not self._fits(node, samples):
                shapes = " and ".join(_shown(self._graph.values[name].shape) for name in node.inputs)
                made = " and ".join(_shown(value.shape) for value in node.outputs)
                place = node.location or f"in module {node.scope or 'of torch'}"
                return f"{node.op} ({place}) makes {made} of {shapes}, which {samples} cannot be; {self._others()}"
        return None

    def _others(self) -> str:
        fitting = [size for size in range(1, 65) if all(self._fits(node, size) for node in self._delicate)]
        return f"sizes that can: {', '.join(map(str, fitting[:MOST]))}, ..." if fitting else "no size up to 64 can"

    def _fits(self, node: Node, samples: int) -> bool:
        try:
            ins = [_at(self._graph.values[name].shape, samples) for name in node.inputs]
            outs = [_at(value.shape, samples) for value in node.outputs]
        except (ZeroDivisionError, TypeError, ValueError):
            return False
        if any(size < 1 for shape in (*ins, *outs) for size in shape):
            return False
        if node.op in reshape.RULES:
            asked = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], tuple) else ()
            given = zip(asked, outs[0], strict=False)
            return prod(ins[0]) == prod(outs[0]) and all(
                size in (-1, own) for size, own in given if isinstance(size, int)
            )
        if node.op in elementwise.RULES:
            return self._alike(node, ins)
        if node.op in CHOOSING and ins[0]:
            dim, count = node.arg(CHOOSING[node.op], "dim", -1), node.args[1]
            return not isinstance(dim, int) or not isinstance(count, int) or count <= ins[0][dim]
        if node.op == "aten.select.int":
            dim, index = node.args[1], node.args[2]
            return not isinstance(dim, int) or not isinstance(index, int) or -ins[0][dim] <= index < ins[0][dim]
        return True

    def _alike(self, node: Node, ins: list[tuple[int, ...]]) -> bool:
        """Whether the dims that hold samples have one size, in all that is put together."""
        found: dict[int, int] = {}
        for name, shape in zip(node.inputs, ins, strict=True):
            sizes = self._graph.values[name].shape
            for place, (size, own) in enumerate(zip(sizes[::-1], shape[::-1], strict=True)):
                if is_batched(size) and found.setdefault(place, own) != own:
                    return False
        return True


def _is_delicate(node: Node, graph: Graph) -> bool:
    shapes = [graph.values[name].shape for name in node.inputs] + [value.shape for value in node.outputs]
    batched = [size for shape in shapes for size in shape if is_batched(size)]
    choosing = node.op in CHOOSING or node.op == "aten.select.int"
    return any(not isinstance(size / BATCH, sympy.Integer) for size in batched) or (choosing and bool(batched))


def _at(shape: tuple[Size, ...], samples: int) -> tuple[int, ...]:
    return tuple(evaluate(size, samples) for size in shape)


def _shown(shape: tuple[Size, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
