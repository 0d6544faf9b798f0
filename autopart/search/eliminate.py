"""Exact minimization of a sum of small tables by (min,+) variable elimination."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import combinations
from math import fsum, inf, log, prod

import numpy as np
from numpy.typing import NDArray

from autopart.errors import PlanningError

SMALL_TABLE = 10_000
LARGE_TABLE = 1_000_000
LARGEST_TABLE = 50_000_000

Order = list[Hashable]
Score = Callable[[Hashable, Mapping[Hashable, set[Hashable]]], float]


@dataclass(frozen=True)
class Table:
    """Costs of the joint choices of `variables`, one array axis a variable; infinity forbids a choice."""

    variables: tuple[Hashable, ...]
    costs: NDArray[np.float64]


def eliminate(tables: Sequence[Table], order: Order | None = None) -> tuple[dict[Hashable, int], float]:
    """The choice for every variable that minimizes the sum of all tables, and that sum.

    Variables go one by one (see `elimination_order`); ties go to the variable seen first, and equal costs to the lower
    choice, so the answer is the same on every machine.

    Args:
        tables: to be added up.
        order: what `find_order` gave for tables of the same variables, where it is known.

    Raises:
        PlanningError: every joint choice is forbidden, or a joint table would exceed 50 million entries.
    """
    order = find_order(tables) if order is None else order
    return eliminate_each([Table(table.variables, table.costs[None]) for table in tables], order)[0]


def eliminate_each(tables: Sequence[Table], order: Order) -> list[tuple[dict[Hashable, int], float]]:
    """As `eliminate`, for several problems of the same variables at once: each step is one for all of them.

    Args:
        tables: to be added up; their costs have one axis more, before the others, with an entry for each problem, or
            one entry for all.
        order: what `find_order` gave for one of them.

    Raises:
        PlanningError: in one of the problems every joint choice is forbidden.
    """
    count = max((len(table.costs) for table in tables), default=1)
    sizes = {
        variable: size
        for table in tables
        for variable, size in zip(table.variables, table.costs.shape[1:], strict=True)
    }
    decided = {variable: 0 for variable, size in sizes.items() if size == 1}
    tables, constant = _without(tables, decided, count)
    sizes = {variable: size for variable, size in sizes.items() if size > 1}
    buckets: dict[Hashable, list[Table]] = {variable: [] for variable in sizes}
    for table in tables:
        for variable in table.variables:
            buckets[variable].append(table)
    steps: list[_Step] = []
    for variable in order:
        summed = buckets.pop(variable)
        joined = _sum(summed, variable)
        rest = joined.variables[1:]
        reduced = Table(rest, joined.costs.min(axis=1))
        steps.append(_Step(variable, (joined,) if joined.costs.size <= SMALL_TABLE else summed))
        for other in rest:
            buckets[other] = [table for table in buckets[other] if variable not in table.variables]
            buckets[other].append(reduced)
        if not rest:
            constant = constant + reduced.costs
    if not np.isfinite(constant).all():
        raise PlanningError("no combination of strategies fits together")
    chosen = {variable: np.zeros(count, dtype=np.intp) for variable in decided}
    problems = np.arange(count)
    for step in reversed(steps):
        chosen[step.variable] = step.best(problems, chosen)
    return [({name: int(own[k]) for name, own in chosen.items()}, float(constant[k])) for k in range(count)]


def find_order(tables: Sequence[Table]) -> Order:
    """The order in which `eliminate` takes the variables that have a choice.

    Raises:
        PlanningError: a joint table would exceed 50 million entries.
    """
    order, largest = elimination_order(neighbours_of(tables), domain_sizes(tables))
    if largest > LARGEST_TABLE:
        raise PlanningError(f"the tensor search needs a table of {largest:,} entries: the graph is too entangled")
    return order


def _without(
    tables: Sequence[Table], decided: Mapping[Hashable, int], count: int
) -> tuple[list[Table], NDArray[np.float64]]:
    """The tables without the variables that have one choice only, and what is left without any."""
    left: list[Table] = []
    constant = np.zeros(count)
    for table in tables:
        rest = tuple(variable for variable in table.variables if variable not in decided)
        costs = table.costs.reshape([len(table.costs), *(size for size in table.costs.shape[1:] if size != 1)])
        if rest:
            left.append(Table(rest, costs))
        else:
            constant = constant + costs
    return left, constant


def domain_sizes(tables: Sequence[Table]) -> dict[Hashable, int]:
    """How many choices every variable has."""
    return {
        variable: size for table in tables for variable, size in zip(table.variables, table.costs.shape, strict=True)
    }


def neighbours_of(tables: Sequence[Table]) -> dict[Hashable, set[Hashable]]:
    """For every variable that has a choice, those that it shares a table with."""
    around: dict[Hashable, set[Hashable]] = {}
    for table in tables:
        own = [variable for variable, size in zip(table.variables, table.costs.shape, strict=True) if size > 1]
        for variable in own:
            around.setdefault(variable, set()).update(other for other in own if other != variable)
    return around


def log_size(size: int) -> float:
    """The logarithm of a number of choices, a little above zero for one."""
    return log(size + 1)


def elimination_order(around: Mapping[Hashable, set[Hashable]], sizes: Mapping[Hashable, int]) -> tuple[Order, int]:
    """The order in which to eliminate the variables, and the size of the largest table that it needs.

    Of three heuristics the best: the smallest joint table first; the one that ties the fewest others anew (min-fill;
    Koller and Friedman 2009, 9.4.3), ties weighted by the numbers of choices, or by their logarithms.
    """
    weight, *fills = _scores(sizes)
    order, largest = _greedy(around, weight, weight)
    for score in fills:
        if largest > LARGE_TABLE:
            other, largest_of_other = _greedy(around, score, weight, largest)
            if largest_of_other < largest:
                order, largest = other, largest_of_other
    return order, int(largest)


def can_be_eliminated(around: Mapping[Hashable, set[Hashable]], sizes: Mapping[Hashable, int], largest: int) -> bool:
    """Whether one of the orders that `elimination_order` tries needs no table with more than `largest` entries."""
    weight, *fills = _scores(sizes)
    return any(_greedy(around, score, weight, largest + 1)[1] <= largest for score in (weight, *fills))


def _scores(sizes: Mapping[Hashable, int]) -> tuple[Score, Score, Score]:
    """The size of a variable's joint table, and what of ties it makes among its neighbours, weighted in two ways."""
    logs = {variable: log_size(size) for variable, size in sizes.items()}

    def weight(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        return prod([sizes[other] for other in around[variable]], start=sizes[variable])

    def fill(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        pairs = combinations(around[variable], 2)
        return sum([sizes[one] * sizes[other] for one, other in pairs if other not in around[one]])

    def log_fill(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        pairs = combinations(around[variable], 2)
        return fsum([logs[one] * logs[other] for one, other in pairs if other not in around[one]])

    return weight, fill, log_fill


def _greedy(
    neighbours: Mapping[Hashable, set[Hashable]], score: Score, weight: Score, below: float = inf
) -> tuple[Order, float]:
    """Always the variable of least `score`, whose neighbours are then tied to each other; and the largest `weight`.

    Once that is not less than `below`, the order is of no use, and left where it is.
    """
    around = {variable: set(own) for variable, own in neighbours.items()}
    scores = {variable: score(variable, around) for variable in around}
    place = {variable: index for index, variable in enumerate(around)}
    # Scores that have changed since are left in the queue, and passed over when it comes to them.
    queue = [(value, place[variable], variable) for variable, value in scores.items()]
    heapify(queue)
    order: list[Hashable] = []
    largest = 0.0
    while scores:
        value, _, variable = heappop(queue)
        if scores.get(variable) != value:
            continue
        order.append(variable)
        largest = max(largest, weight(variable, around))
        if largest >= below:
            break
        own = around.pop(variable)
        del scores[variable]
        for other in own:
            around[other] |= own
            around[other] -= {variable, other}
        for other in own.union(*(around[other] for other in own)):
            value = score(other, around)
            if value != scores[other]:
                scores[other] = value
                heappush(queue, (value, place[other], other))
    return order, largest


def _sum(tables: Sequence[Table], first: Hashable) -> Table:
    """All tables added into one whose first variable is `first`; the first axis is of the problems.

    They are added one after the other, each sum only as large as what it depends on.
    """
    others = dict.fromkeys(variable for table in tables for variable in table.variables if variable != first)
    place = {name: index for index, name in enumerate((first, *others))}
    total: NDArray[np.float64] | None = None
    for table in tables:
        at = [place[variable] for variable in table.variables]
        shape, order = [len(table.costs)] + [1] * len(place), sorted(range(len(at)), key=at.__getitem__)
        for position, size in zip(at, table.costs.shape[1:], strict=True):
            shape[1 + position] = size
        own = table.costs.transpose(0, *(1 + axis for axis in order)).reshape(shape)
        total = own if total is None else total + own
    if total is None:
        raise ValueError(f"no table depends on {first}")
    return Table(tuple(place), total)


@dataclass(frozen=True, slots=True)
class _Step:
    """A variable that was eliminated, and the tables whose sum its best choice is the least of."""

    variable: Hashable
    tables: Sequence[Table]

    def best(self, problems: NDArray[np.intp], chosen: Mapping[Hashable, NDArray[np.intp]]) -> NDArray[np.intp]:
        """The best choice for each of the problems, given those of the other variables."""
        costs: NDArray[np.float64] | None = None
        for table in self.tables:
            own = problems if len(table.costs) > 1 else 0 * problems
            place = [slice(None) if other == self.variable else chosen[other] for other in table.variables]
            each = table.costs[(own, *place)]
            costs = each if costs is None else costs + each
        if costs is None:
            raise ValueError(f"no table depends on {self.variable}")
        return np.asarray(costs.argmin(axis=1))
