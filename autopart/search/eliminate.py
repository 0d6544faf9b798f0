"""Exact minimization of a sum of small tables by (min,+) variable elimination."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum, log, prod

import numpy as np
from numpy.typing import NDArray

from autopart.errors import PlanningError

LARGE_TABLE = 1_000_000
LARGEST_TABLE = 50_000_000

Order = list[Hashable]


@dataclass(frozen=True)
class Table:
    """Costs of the joint choices of `variables`, one array axis a variable; infinity forbids a choice."""

    variables: tuple[Hashable, ...]
    costs: NDArray[np.float64]


def eliminate(tables: Sequence[Table]) -> tuple[dict[Hashable, int], float]:
    """The choice for every variable that minimizes the sum of all tables, and that sum.

    Variables go one by one (see `elimination_order`); ties go to the variable seen first, and equal costs to the lower
    choice, so the answer is the same on every machine.

    Raises:
        PlanningError: every joint choice is forbidden, or a joint table would exceed 50 million entries.
    """
    sizes = domain_sizes(tables)
    decided = {variable: 0 for variable, size in sizes.items() if size == 1}
    sizes = {variable: size for variable, size in sizes.items() if size > 1}
    tables, constant = _without(tables, decided)
    buckets: dict[Hashable, list[Table]] = {variable: [] for variable in sizes}
    for table in tables:
        for variable in table.variables:
            buckets[variable].append(table)
    steps: list[tuple[Hashable, tuple[Hashable, ...], NDArray[np.intp]]] = []
    order, largest = elimination_order(neighbours_of(tables), sizes)
    if largest > LARGEST_TABLE:
        raise PlanningError(f"the tensor search needs a table of {largest:,} entries: the graph is too entangled")
    for variable in order:
        joined = _sum(buckets.pop(variable), variable, sizes)
        costs = joined.costs
        best = costs.argmin(axis=-1)
        rest = joined.variables[:-1]
        reduced = Table(rest, np.take_along_axis(costs, best[..., None], axis=-1)[..., 0])
        steps.append((variable, rest, best))
        for other in rest:
            buckets[other] = [table for table in buckets[other] if variable not in table.variables]
            buckets[other].append(reduced)
        if not rest:
            constant += float(reduced.costs)
    if not np.isfinite(constant):
        raise PlanningError("no combination of strategies fits together")
    chosen: dict[Hashable, int] = dict(decided)
    for variable, rest, best in reversed(steps):
        chosen[variable] = int(best[tuple(chosen[other] for other in rest)])
    return chosen, constant


def _without(tables: Sequence[Table], decided: Mapping[Hashable, int]) -> tuple[list[Table], float]:
    """The tables without the variables that have one choice only, and what is left without any."""
    left: list[Table] = []
    constant = 0.0
    for table in tables:
        rest = tuple(variable for variable in table.variables if variable not in decided)
        costs = table.costs.reshape([size for size in table.costs.shape if size != 1])
        if rest:
            left.append(Table(rest, costs))
        else:
            constant += float(costs)
    return left, constant


def domain_sizes(tables: Sequence[Table]) -> dict[Hashable, int]:
    """How many choices every variable has."""
    return {
        variable: size for table in tables for variable, size in zip(table.variables, table.costs.shape, strict=True)
    }


def neighbours_of(tables: Sequence[Table]) -> dict[Hashable, set[Hashable]]:
    """For every variable, those that it shares a table with."""
    around: dict[Hashable, set[Hashable]] = {variable: set() for table in tables for variable in table.variables}
    for table in tables:
        for variable in table.variables:
            around[variable].update(other for other in table.variables if other != variable)
    return around


def log_size(size: int) -> float:
    """The logarithm of a number of choices, a little above zero for one."""
    return log(size + 1)


def elimination_order(around: Mapping[Hashable, set[Hashable]], sizes: Mapping[Hashable, int]) -> tuple[Order, int]:
    """The order in which to eliminate the variables, and the size of the largest table that it needs.

    Of three heuristics the best: the smallest joint table first; the one that ties the fewest others anew (min-fill;
    Koller and Friedman 2009, 9.4.3), ties weighted by the numbers of choices, or by their logarithms.
    """

    def weight(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        return prod((sizes[other] for other in around[variable]), start=sizes[variable])

    def fill(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        pairs = combinations(around[variable], 2)
        return sum(sizes[one] * sizes[other] for one, other in pairs if other not in around[one])

    def log_fill(variable: Hashable, around: Mapping[Hashable, set[Hashable]]) -> float:
        pairs = combinations(around[variable], 2)
        return fsum(log_size(sizes[a]) * log_size(sizes[b]) for a, b in pairs if b not in around[a])

    order, largest = _greedy(around, weight, weight)
    for score in (fill, log_fill):
        if largest > LARGE_TABLE:
            other, largest_of_other = _greedy(around, score, weight)
            if largest_of_other < largest:
                order, largest = other, largest_of_other
    return order, int(largest)


def _greedy(
    neighbours: Mapping[Hashable, set[Hashable]],
    score: Callable[[Hashable, Mapping[Hashable, set[Hashable]]], float],
    weight: Callable[[Hashable, Mapping[Hashable, set[Hashable]]], float],
) -> tuple[Order, float]:
    """Always the variable of least `score`, whose neighbours are then tied to each other; and the largest `weight`."""
    around = {variable: set(own) for variable, own in neighbours.items()}
    scores = {variable: score(variable, around) for variable in around}
    place = {variable: index for index, variable in enumerate(around)}
    order: list[Hashable] = []
    largest = 0.0
    while scores:
        variable = min(scores, key=lambda v: (scores[v], place[v]))
        order.append(variable)
        largest = max(largest, weight(variable, around))
        own = around.pop(variable)
        del scores[variable]
        for other in own:
            around[other] |= own
            around[other] -= {variable, other}
        for other in own.union(*(around[other] for other in own)):
            scores[other] = score(other, around)
    return order, largest


def _sum(tables: list[Table], last: Hashable, sizes: dict[Hashable, int]) -> Table:
    """All tables added into one whose last axis is `last`."""
    names = list(dict.fromkeys(variable for table in tables for variable in table.variables if variable != last))
    names.append(last)
    total = np.zeros(tuple(sizes[name] for name in names))
    for table in tables:
        positions = [names.index(variable) for variable in table.variables]
        order = np.argsort(positions)
        shape = [1] * len(names)
        for position in positions:
            shape[position] = sizes[names[position]]
        total = total + table.costs.transpose(order).reshape(shape)
    return Table(tuple(names), total)
