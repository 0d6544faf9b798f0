"""Minimize a sum of tables: exactly where elimination can, else by fixing the few variables that tie all others."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from autopart.errors import PlanningError
from autopart.search.eliminate import (
    Order,
    Table,
    can_be_eliminated,
    domain_sizes,
    eliminate,
    eliminate_each,
    elimination_order,
    find_order,
    log_size,
    neighbours_of,
)

LARGEST_TABLE = 20_000_000
ENTRIES_AT_ONCE = 600_000  # of the tables of problems solved together: what the processor's caches hold
MOST_VOTES = 3  # for a variable
MOST_CHANGES = 12

Choice = Mapping[Hashable, int]


@dataclass(frozen=True)
class Minimum:
    """A choice for every variable, what it costs, and a bound that no choice is below; equal where it is optimal."""

    chosen: Choice
    cost: float
    bound: float


def minimize(tables: Sequence[Table], largest: int = LARGEST_TABLE) -> Minimum:
    """The joint choice of least cost, or one with a bound on how far it is from it.

    Where no elimination order keeps the tables small, as with weights that many layers share, the variables with the
    most neighbours are set apart until one does (cutset conditioning; Dechter 2003, 10.3). With a copy of them for each
    table elimination gives a bound, and votes for their values; the best combination found by changing one vote at a
    time is the answer.

    Args:
        tables: to be added up.
        largest: entries of the largest table that elimination may make.

    Raises:
        PlanningError: every joint choice that was tried is forbidden.
    """
    cutset = _cutset(tables, largest)
    if not cutset:
        chosen, cost = eliminate(tables)
        return Minimum(chosen, cost, cost)
    votes, bound = _relaxed(tables, cutset)
    fixed = {variable: votes[variable][0] for variable in cutset}
    order = find_order(_conditioned(tables, fixed))  # the same whichever values are fixed
    best = _best_with(tables, fixed, order, bound)
    changes = [(variable, vote) for variable in cutset for vote in votes[variable][1:MOST_VOTES]]
    for variable, vote in changes[:MOST_CHANGES]:
        other = _best_with(tables, {**fixed, variable: vote}, order, bound)
        if other is not None and (best is None or other.cost < best.cost):
            best, fixed = other, {**fixed, variable: vote}
    if best is None:
        raise PlanningError("no combination of strategies was found that fits together: the graph is too entangled")
    return best


def order_of_each(tables: Sequence[Table]) -> tuple[Order, int]:
    """The order of elimination for `minimize_each`, the same for all costs, and the entries of its largest table."""
    one = [Table(table.variables, table.costs[0]) for table in tables]
    return elimination_order(neighbours_of(one), domain_sizes(one))


def minimize_each(
    tables: Sequence[Table], largest: int = LARGEST_TABLE, known: tuple[Order, int] | None = None
) -> list[Minimum]:
    """As `minimize`, for several problems of the same variables, whose costs have an axis more, before the others.

    `known` is what `order_of_each` gave for tables of the same variables.
    """
    count = max(len(table.costs) for table in tables)
    order, entries = known or order_of_each(tables)
    if entries > largest:
        return [minimize(_problem(tables, k), largest) for k in range(count)]
    together = max(1, ENTRIES_AT_ONCE // max(1, entries))
    together = ceil(count / ceil(count / together))  # as many each time
    found: list[Minimum] = []
    for start in range(0, count, together):
        solved = eliminate_each(_some(tables, start, start + together), order)
        found += [Minimum(chosen, cost, cost) for chosen, cost in solved]
    return found


def _some(tables: Sequence[Table], start: int, stop: int) -> list[Table]:
    """The tables of the problems from `start` up to `stop`."""
    return [Table(t.variables, t.costs if len(t.costs) == 1 else t.costs[start:stop]) for t in tables]


def _problem(tables: Sequence[Table], number: int) -> list[Table]:
    """The tables of one of the problems."""
    return [Table(t.variables, t.costs[number if len(t.costs) > 1 else 0]) for t in tables]


def _cutset(tables: Sequence[Table], largest: int) -> list[Hashable]:
    """The variables to fix so that the others can be eliminated; none if all can.

    Of the variables in the order of their neighbours, as few as will do, found by doubling and then bisecting.
    """
    sizes = domain_sizes(tables)
    cutset: list[Hashable] = []
    around = [neighbours_of(tables)]  # with none fixed, with one, ...

    def do(count: int) -> bool:
        while len(cutset) < count:
            rest = around[-1]
            hub = max(rest, key=lambda variable: len(rest[variable]) * log_size(sizes[variable]))
            cutset.append(hub)
            others = ((variable, own) for variable, own in rest.items() if variable != hub)
            around.append({variable: own - {hub} if hub in own else own for variable, own in others})
        return can_be_eliminated(around[count], sizes, largest)

    few, enough = -1, 0
    while not do(enough):
        few, enough = enough, min(2 * enough + 1, len(around[0]))
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if do(middle) else (middle, enough)
    return cutset[:enough]


def _relaxed(tables: Sequence[Table], cutset: Sequence[Hashable]) -> tuple[dict[Hashable, list[int]], float]:
    """The values that the tables want for the variables of `cutset`, the most wanted first, and the bound."""
    places = Counter(name for table in tables if len(table.variables) > 1 for name in table.variables if name in cutset)
    copies: dict[Hashable, list[Hashable]] = {variable: [] for variable in cutset}
    relaxed: list[Table] = []
    alone: dict[Hashable, Table] = {}
    for index, table in enumerate(tables):
        own = [variable for variable in table.variables if variable in copies]
        if len(table.variables) == 1 and own:
            variable = own[0]
            known = alone[variable].costs if variable in alone else 0.0
            alone[variable] = Table(table.variables, table.costs + known)
            continue
        renamed = {variable: ("copy", variable, index) for variable in own}
        for variable, copy in renamed.items():
            copies[variable].append(copy)
        relaxed.append(replace(table, variables=tuple(renamed.get(name, name) for name in table.variables)))
    for variable, table in alone.items():  # what a variable costs by itself, its copies share
        relaxed += [Table((copy,), table.costs / places[variable]) for copy in copies[variable]]
    chosen, bound = eliminate(relaxed)
    votes = {variable: Counter(chosen[copy] for copy in copies[variable]) for variable in cutset}
    return {v: sorted(count, key=lambda value: (-count[value], value)) for v, count in votes.items()}, bound


def _conditioned(tables: Sequence[Table], fixed: Choice) -> list[Table]:
    """The tables with the variables of `fixed` at their values; what is left of some depends on nothing."""
    conditioned = []
    for table in tables:
        index = tuple(fixed.get(variable, slice(None)) for variable in table.variables)
        rest = tuple(variable for variable in table.variables if variable not in fixed)
        conditioned.append(Table(rest, np.asarray(table.costs[index])))
    return conditioned


def _best_with(tables: Sequence[Table], fixed: Choice, order: Order, bound: float) -> Minimum | None:
    """The optimum with the variables of `fixed` at their values; None where there is none."""
    try:
        chosen, cost = eliminate(_conditioned(tables, fixed), order)
    except PlanningError:
        return None
    return Minimum({**chosen, **fixed}, cost, bound)
