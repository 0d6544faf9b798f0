"""Sample numbers: values that count the samples of a batch from 0, as `torch.arange(len(x))` does.

x[arange(b), last]        a lookup: in a part of the batch, row i is that part's, and is counted within it
losses * (arange(b) < 8)  a value: sample i is the global batch's, and parts begin where the parts before them end
cross_entropy(a @ c.T, arange(b))       samples meet: they do within a part alone, which counts its own
"""

from collections.abc import Mapping

from sympy import Integer

from autopart.ir.graph import RANDOM, Graph, Node, Ref
from autopart.ir.size import BATCH, is_batched
from autopart.sharding.numbers import CASTS, COPIES, EXPANSIONS
from autopart.sharding.rule import Rule

COUNTING = ("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
# Made for so many samples, and the same for each.
ALIKE = frozenset(f"aten.{name}.default" for name in ("empty", "full", "ones", "zeros", "scalar_tensor"))


def countable(graph: Graph) -> frozenset[str]:
    """The nodes that count samples, or their rows, so that a part can go on where those before it end."""
    return frozenset(node.name for node in graph.nodes if rows_counted(node) is not None)


def rows_counted(node: Node) -> int | None:
    """How many numbers a sample has in what `node` counts, each by a whole step after the other; None for others."""
    if node.op not in COUNTING:
        return None
    times, (start, step) = node.output.shape[0] / BATCH, start_and_step(node)
    whole = all(isinstance(number, int) for number in (start, step))
    return int(times) if whole and isinstance(times, Integer) else None


def start_and_step(node: Node) -> tuple[object, object]:
    """Of a call of `arange`."""
    start = 0 if node.op == "aten.arange.default" else node.args[0]
    return start, node.arg(2, "step", 1) if node.op == "aten.arange.start_step" else 1


class SampleNumbers:
    """Follows numbers of samples from node to node; `visit` them as they stand in the graph."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule | None]) -> None:
        self._graph, self._rules = graph, rules
        self._sources: dict[str, frozenset[str]] = {}  # for each value the nodes whose numbers it is made of
        self._rows: set[str] = set()  # values that are the numbers of the samples, 0, 1, 2 and so on, in some shape

    def visit(self, node: Node) -> frozenset[str]:
        """The nodes that made the numbers in what `node` takes, where inputs and constants decide all else in it."""
        found = frozenset[str]().union(*(self._sources.get(name, ()) for name in node.inputs))
        if self.makes(node):
            own = frozenset({node.name})
            if rows_counted(node) == 1 and start_and_step(node) == (0, 1):
                self._rows.add(node.output.name)
        else:
            own = found
            if node.op in COPIES | EXPANSIONS and node.inputs[0] in self._rows and self._keeps(node):
                self._rows.add(node.output.name)
        if own and all(value.name in self._graph.recomputable for value in node.outputs):
            self._sources.update((value.name, own) for value in node.outputs)
        return found

    def makes(self, node: Node) -> bool:
        """Whether `node` gives each sample of a batch a value by its place alone: a count, a diagonal, an order."""
        batched = any(is_batched(size) for value in node.outputs for size in value.shape)
        drawn = any(word in node.op for word in RANDOM) and "randperm" not in node.op
        return batched and not node.inputs and node.op not in ALIKE and not drawn

    def is_count(self, name: str) -> bool:
        """Whether `name` holds nothing but numbers of samples or rows, as they are counted."""
        return name in self._rows or rows_counted(self._graph.nodes[self._graph.producer[name]]) is not None

    def looked_up(self, node: Node) -> tuple[str, str] | None:
        """Of a lookup of each sample in its own row: the numbers of the rows, and the letter of the dim of rows."""
        rule, places = self._rules.get(node.name), node.args[1] if len(node.args) > 1 else None
        if node.op != "aten.index.Tensor" or rule is None or not isinstance(places, tuple):
            return None
        shape = self._graph.values[node.inputs[0]].shape
        batched = [dim for dim, size in enumerate(shape) if is_batched(size)]
        if len(batched) != 1 or sum(map(is_batched, node.output.shape)) != 1 or batched[0] >= len(places):
            return None
        place, letter = places[batched[0]], rule.inputs[0][batched[0]]
        fits = isinstance(place, Ref) and place.name in self._rows and shape[batched[0]] == BATCH
        return (place.name, letter) if fits and isinstance(place, Ref) and letter is not None else None

    def _keeps(self, node: Node) -> bool:
        """Whether the samples are still one dim, and whole numbers."""
        batched = [size for size in node.output.shape if is_batched(size)]
        return batched == [BATCH] and (node.op not in CASTS or node.output.dtype in ("int32", "int64"))
