"""Dispatch: rows of the batch that are sorted, computed in that order and put back, so that no sample meets another.

    ids                                 a number for each of S rows, from 0
    p = argsort(ids)       Order        the row that stands at each place of the order
    x[p], x[p // k]        Ordered      rows of x as p orders them; k rows of ids belong to each of x
    n = histc(ids)         Count        how many rows have each number
    e = cumsum(n)          Count        where the rows of each number end in the order
    grouped_mm(x[p], w, e) Ordered      row i is x[p][i] @ w[ids[p][i]], whatever the other rows are
    q[p] = arange(S)       Order        the inverse of p: the place at which each row stands
    y[q], z[p] = y         -            rows as they were; `index_add(z, p // k, y)` sums those that belong together

What is computed row by row, or summed over all rows, does not depend on their order. Part by part the rows are sorted
among fewer, and each has the same result: so a chain that ends with the inverse or with a sum mixes no samples. Any
other use of an order does: which rows come first, and at which place a row stands, depends on the other samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autopart.ir.graph import Graph, Node, Ref
from autopart.ir.size import Size, is_batched
from autopart.sharding.letters import axis
from autopart.sharding.numbers import CASTS, COPIES, EXPANSIONS, SORTS, WHOLE, Numbers
from autopart.sharding.rule import Rule
from autopart.sharding.rules.experts import GROUPED

SHAPES = frozenset(f"aten.{name}.default" for name in ("empty_like", "zeros_like", "ones_like", "full_like"))


@dataclass(frozen=True, slots=True)
class Order:
    """Row numbers in the order `name`, divided by `per`; where `inverse`, the places of the rows in that order."""

    name: str
    per: int = 1
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Ordered:
    """Rows in the order `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows have each number of `numbers`; where `ends`, how many have that number or a lower one."""

    numbers: str
    ends: bool = False


Fact = Order | Ordered | Count
Facts = dict[str, Fact]


class Dispatch:
    """Follows orders through a graph, node after node.

    Args:
        graph: gives the shapes.
        rules: of its nodes, by their names.
    """

    def __init__(self, graph: Graph, rules: Mapping[str, Rule | None]) -> None:
        self._graph, self._rules = graph, rules
        self._numbers = Numbers(graph)
        self._facts: Facts = {}
        self._rows: dict[str, Size] = {}  # of every order, how many
        self._ends: dict[str, str] = {}  # of every order of groups that no row is left out of
        self._ascending: dict[str, str] = {}  # of every order from the lowest number up, the numbers that it sorts

    def visit(self, node: Node) -> bool | None:
        """Whether `node` leaves every row to its sample; None where letters decide, as they do within one order."""
        self._numbers.visit(node)
        for step in (self._sort, self._count, self._divide, self._take, self._put, self._multiply):
            found = step(node)
            if found is not None:
                self._facts.update(found)
                return True
        # Counts are sums over the batch, of which letters know everything.
        if not any(isinstance(self._facts.get(name), Order | Ordered) for name in node.inputs):
            return None
        if node.op in SHAPES:
            return True
        found = self._copy(node) or self._row_by_row(node)
        self._facts.update(found or {})
        return False if found is None else None

    def ends(self, name: str) -> str | None:
        """Where the groups end, of rows that stand in groups without a rest: the name of that value."""
        fact = self._facts.get(name)
        return self._ends.get(fact.name) if isinstance(fact, Ordered) else None

    def natural(self, name: str) -> bool:
        """Whether `name` holds places, none below 0."""
        return self._numbers.natural(name)

    def counts(self, name: str) -> bool:
        """Whether `name` holds counts of numbers."""
        return isinstance(self._facts.get(name), Count)

    def _sort(self, node: Node) -> Facts | None:
        """A sort of one number a row; of row numbers themselves, it gives the places."""
        if node.op not in SORTS:
            return None
        source, order = self._graph.values[node.inputs[0]], node.outputs[-1].name
        fact = self._facts.get(source.name)
        upward = node.arg(3 if node.op.endswith("stable") else 2, "descending", False) is False
        if len(source.shape) != 1 or not is_batched(source.shape[0]):
            return None
        if isinstance(fact, Order):
            plain = fact == Order(fact.name) and upward
            unread = len(node.outputs) == 1 or not self._graph.consumers[node.output.name]
            return {order: replace(fact, inverse=True)} if plain and unread else None
        if fact is not None:
            return None
        self._rows[order] = source.shape[0]
        if upward:
            self._ascending[order] = self._numbers.origin(source.name)
        return {node.output.name: Ordered(order), order: Order(order)}

    def _count(self, node: Node) -> Facts | None:
        """A histogram with a bin for every number, or a sum of one-hot codes; sums of it from the left."""
        if not node.inputs:
            return None
        source, numbers = self._graph.values[node.inputs[0]], None
        fact = self._facts.get(source.name)
        if isinstance(fact, Count):
            if node.op in CASTS:
                return {node.output.name: fact}
            summed = node.op == "aten.cumsum.default" and not fact.ends
            return {node.output.name: replace(fact, ends=True)} if summed else None
        if isinstance(fact, Order):
            return None
        if node.op == "aten.histc.default":
            bins, lowest, highest = node.arg(1, "bins", 100), node.arg(2, "min", 0), node.arg(3, "max", 0)
            if lowest == highest:
                return None  # the range is that of the elements
            each = isinstance(bins, int) and (lowest, highest) == (0, bins - 1) and self._numbers.natural(source.name)
            if not each:
                return {}  # a sum over rows, of which nothing else is known
            numbers = self._numbers.origin(source.name)
        elif node.op == "aten.sum.dim_IntList" and len(node.output.shape) == 1:
            dims, last = node.arg(1, "dim"), len(source.shape) - 1
            reduced = {dim % (last + 1) for dim in dims if isinstance(dim, int)} if isinstance(dims, tuple) else set()
            numbers = self._numbers.classes(source.name) if reduced == set(range(last)) else None
        return {node.output.name: Count(numbers)} if numbers is not None else None

    def _divide(self, node: Node) -> Facts | None:
        """Row numbers divided by how many rows belong together."""
        fact, divisor = self._facts.get(node.inputs[0]) if node.inputs else None, node.arg(1, "other")
        floor = "floor_divide" in node.op or (".div." in node.op and node.arg(2, "rounding_mode") in ("floor", "trunc"))
        if not isinstance(fact, Order) or fact != Order(fact.name) or not floor:
            return None
        return {node.output.name: replace(fact, per=divisor)} if isinstance(divisor, int) and divisor > 0 else None

    def _take(self, node: Node) -> Facts | None:
        """Rows taken in an order, or back in their own."""
        if node.op == "aten.index.Tensor":
            place = _only_place(node.args[1])
        elif node.op in ("aten.index_select.default", "aten.gather.default"):
            place = axis(node, len(self._graph.values[node.inputs[0]].shape), 1, 0)
        else:
            return None
        source, order = self._facts.get(node.inputs[0]), self._facts.get(node.inputs[1])
        if not isinstance(order, Order) or place != 0 or self._row_dim(node.inputs[1]) != 0:
            return None
        if order.inverse:
            return {} if source == Ordered(order.name) and self._row_dim(node.inputs[0]) == 0 else None
        if source is not None or not self._holds(node.inputs[0], order):
            return None
        if order.per == 1:
            self._numbers.permuted(node.output.name, node.inputs[0])
        return {node.output.name: Ordered(order.name)}

    def _put(self, node: Node) -> Facts | None:
        """Rows put to where they were, or added to the rows to which they belong."""
        if node.op == "aten.index_put.default":
            place, adds = _only_place(node.args[1]), node.arg(3, "accumulate", False) is True
        elif node.op in ("aten.index_add.default", "aten.scatter_add.default", "aten.scatter.src"):
            place, adds = axis(node, len(node.output.shape), 1, 0), node.op != "aten.scatter.src"
        else:
            return None
        if place != 0 or len(node.inputs) != 3:
            return None
        base, order, rows = node.inputs[0], self._facts.get(node.inputs[1]), node.inputs[2]
        if not isinstance(order, Order) or order.inverse or self._row_dim(node.inputs[1]) != 0:
            return None
        if not self._holds(node.output.name, order):
            return None
        if adds:
            fits = self._facts.get(base) is None and self._facts.get(rows) == Ordered(order.name)
            return {} if fits and self._row_dim(rows) == 0 else None
        if order.per != 1:
            return None  # of several rows, whichever came last
        if self._counts_up(rows):
            return {node.output.name: replace(order, inverse=True)}
        return {} if self._facts.get(rows) == Ordered(order.name) and self._row_dim(rows) == 0 else None

    def _multiply(self, node: Node) -> Facts | None:
        """Rows in the order of their numbers, each times the matrix of its number."""
        if node.op not in GROUPED or len(node.inputs) != 3:
            return None
        rows, matrices, ends = node.inputs
        order, count = self._facts.get(rows), self._facts.get(ends)
        if not isinstance(order, Ordered) or not isinstance(count, Count) or not count.ends:
            return None
        size = self._graph.values[matrices].shape
        every = len(size) == 3 and self._graph.values[ends].shape == size[:1]
        same = self._ascending.get(order.name) == count.numbers and self._numbers.natural(count.numbers)
        plain = not self._row_dim(rows) and not any(map(is_batched, size))
        if not (every and same and plain):
            return None
        if self._numbers.below(count.numbers, size[0]):
            self._ends.setdefault(order.name, ends)
        return {node.output.name: order}

    def _copy(self, node: Node) -> Facts | None:
        """Row numbers in another shape or dtype."""
        fact = self._facts.get(node.inputs[0])
        same = node.op in COPIES | EXPANSIONS and node.output.dtype in WHOLE
        if not isinstance(fact, Order) or not same or not self._keeps_rows(node, fact.name):
            return None
        return {node.output.name: fact}

    def _row_by_row(self, node: Node) -> Facts | None:
        """Whatever letters show to be computed row by row, or to be summed over all rows, of one order."""
        orders = {self._facts.get(name) for name in node.inputs if self._row_dim(name) is not None}
        order = next(iter(orders), None)
        others = any(name in self._facts for name in node.inputs if self._row_dim(name) is None)
        if len(orders) != 1 or not isinstance(order, Ordered) or others or not self._keeps_rows(node, order.name):
            return None
        return {value.name: order for value in node.outputs if any(map(is_batched, value.shape))}

    def _keeps_rows(self, node: Node, order: str) -> bool:
        """Whether one letter, of which nothing must be whole, runs along the rows of all inputs and outputs."""
        rule = self._rules.get(node.name)
        if rule is None or rule.counts is not None:
            return False
        shapes = [self._graph.values[name].shape for name in node.inputs] + [value.shape for value in node.outputs]
        found: set[tuple[str | None, Size]] = set()
        for dims, shape in zip((*rule.inputs, *rule.outputs), shapes, strict=True):
            found.update((letter, size) for letter, size in zip(dims, shape, strict=True) if is_batched(size))
        letter, size = next(iter(found), (None, 0))
        alone = all(sum(map(is_batched, shape)) <= 1 for shape in shapes)
        return len(found) == 1 and alone and letter not in {None, *rule.whole} and size == self._rows[order]

    def _holds(self, name: str, order: Order) -> bool:
        """Whether the first dim of `name`, and no other, has the rows to which the row numbers belong."""
        shape = self._graph.values[name].shape
        return self._row_dim(name) == 0 and shape[0] * order.per == self._rows[order.name]

    def _row_dim(self, name: str) -> int | None:
        """The first dim that holds the batch."""
        return next((dim for dim, size in enumerate(self._graph.values[name].shape) if is_batched(size)), None)

    def _counts_up(self, name: str) -> bool:
        """Whether the elements are 0, 1, 2 and so on."""
        if name not in self._graph.producer:
            return False
        node = self._graph.nodes[self._graph.producer[name]]
        return node.op == "aten.arange.default" or (node.op == "aten.arange.start" and node.args[0] == 0)


def _only_place(places: object) -> int | None:
    """The one dim that is indexed with a tensor."""
    given = [dim for dim, place in enumerate(places) if isinstance(place, Ref)] if isinstance(places, tuple) else []
    return given[0] if len(given) == 1 else None
