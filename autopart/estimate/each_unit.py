"""each_unit: a figure of every unit of a chain, computed once for those that are alike."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from autopart.estimate.block import UnitCost

T = TypeVar("T")


def each_unit(costs: Sequence[UnitCost], figure: Callable[[UnitCost], T]) -> list[T]:
    """`figure` of each of the units; the runs of a loop are mostly one object, which is asked once."""
    known: dict[int, T] = {}
    found = []
    for cost in costs:
        key = id(cost)
        if key not in known:
            known[key] = figure(cost)
        found.append(known[key])
    return found
