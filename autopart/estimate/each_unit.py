"""each_unit: a figure of every unit of a chain, computed once for those that are alike."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from autopart.estimate.block import UnitCost

T = TypeVar("T")


def each_unit(costs: Sequence[UnitCost], figure: Callable[[UnitCost], T]) -> list[T]:
    """`figure` of each of the units; the runs of a loop are mostly one object, which is asked once."""
    numbers = list(map(id, costs))
    known = {number: figure(cost) for number, cost in dict(zip(numbers, costs, strict=True)).items()}
    return [known[number] for number in numbers]
