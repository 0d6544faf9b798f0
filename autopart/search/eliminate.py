"""Exact minimization of a sum of small tables by (min,+) variable elimination."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopart.errors import PlanningError

LARGEST_TABLE = 50_000_000


@dataclass(frozen=True)
class Table:
    """Costs of the joint choices of `variables`, one array axis a variable; infinity forbids a choice."""

    variables: tuple[Hashable, ...]
    costs: NDArray[np.float64]


def eliminate(tables: Sequence[Table]) -> tuple[dict[Hashable, int], float]:
    """The choice for every variable that minimizes the sum of all tables, and that sum.

    Variables go one by one, first the one whose joint table is smallest (min-weight ordering); ties go to the variable
    seen first, and equal costs to the lower choice, so the answer is the same on every machine.

    Raises:
        PlanningError: every joint choice is forbidden, or a joint table would exceed 50 million entries.
    """
    sizes: dict[Hashable, int] = {}
    for table in tables:
        sizes.update(zip(table.variables, table.costs.shape, strict=True))
    buckets: dict[Hashable, list[Table]] = {variable: [] for variable in sizes}
    for table in tables:
        for variable in table.variables:
            buckets[variable].append(table)
    weight = {variable: _joint_size(buckets[variable], sizes) for variable in sizes}
    order: dict[Hashable, int] = {variable: index for index, variable in enumerate(sizes)}
    steps: list[tuple[Hashable, tuple[Hashable, ...], NDArray[np.intp]]] = []
    constant = 0.0
    while weight:
        variable = min(weight, key=lambda v: (weight[v], order[v]))
        if weight[variable] > LARGEST_TABLE:
            raise PlanningError(
                f"the tensor search needs a table of {weight[variable]:,} entries: the graph is too entangled"
            )
        joined = _sum(buckets[variable], variable, sizes)
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
        del weight[variable], buckets[variable]
        for other in rest:
            weight[other] = _joint_size(buckets[other], sizes)
    if not np.isfinite(constant):
        raise PlanningError("no combination of strategies fits together")
    chosen: dict[Hashable, int] = {}
    for variable, rest, best in reversed(steps):
        chosen[variable] = int(best[tuple(chosen[other] for other in rest)])
    return chosen, constant


def _joint_size(tables: list[Table], sizes: dict[Hashable, int]) -> int:
    size = 1
    for variable in {variable for table in tables for variable in table.variables}:
        size *= sizes[variable]
    return size


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
