"""Alike: which stages of a chain of units are alike, whatever the repeated layers are called."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """The sorts of stages that a chain can be cut into.

    Attributes:
        sort_of: for a first unit (row) and the first unit behind (column) the number of its sort; where there is none
            between them, the last number.
        start, stop: of each sort one such stage; for the last number both are 0.
    """

    sort_of: Places
    start: Places
    stop: Places


@dataclass(frozen=True, slots=True)
class UnitSorts:
    """The sorts of units of a chain.

    Attributes:
        numbers: the same for units on which the cost of a stage depends alike, in order of appearance.
        tied: the parameters that several units use.
    """

    numbers: tuple[int, ...]
    tied: frozenset[str]

    @classmethod
    def of(cls, costs: Sequence[UnitCost]) -> "UnitSorts":
        """Those of a chain."""
        named = each_unit(costs, lambda cost: {target for target, _, _ in cost.parameters if target})
        units = Counter(chain.from_iterable(named))
        tied = frozenset(target for target, count in units.items() if count > 1)
        numbers: dict[Hashable, int] = {}
        return cls(tuple(each_unit(costs, lambda cost: numbers.setdefault(_figures(cost, tied), len(numbers)))), tied)

    def with_edges(self, edges: Sequence[Hashable]) -> tuple[int, ...]:
        """Numbers of units that besides have the same at both sides; `edges` are one more than the units."""
        numbers: dict[Hashable, int] = {}
        keys = zip(self.numbers, pairwise(edges), strict=True)
        return tuple([numbers.setdefault(key, len(numbers)) for key in keys])


def _figures(cost: UnitCost, tied: frozenset[str]) -> Hashable:
    return (
        *(cost.forward_s, cost.backward_s, cost.weight_s, cost.full_s, cost.selective_s, cost.again_s),
        *(cost.kept_bytes, cost.input_bytes, cost.selective_bytes, cost.working_bytes, cost.transient_bytes),
        cost.partial_bytes,
        tuple([(target if target in tied else "", size, elements) for target, size, elements in cost.parameters]),
    )


@lru_cache(maxsize=256)
def alike_stages(sorts: tuple[int, ...]) -> Alike:
    """The stages of units of these sorts; within a run of equal units, those of one length are alike."""
    count = len(sorts)
    own = np.array(sorts)
    begins = np.concatenate([[True], own[1:] != own[:-1]])
    first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))  # of the run that a unit is in
    start, stop = np.triu_indices(count + 1, 1)
    shift = np.where(first[start] == first[stop - 1], start - first[start], 0)
    same = (start - shift) * (count + 1) + stop - shift
    places, numbers = np.unique(same, return_inverse=True)
    sort_of = np.full((count + 1, count + 1), len(places), dtype=np.intp)
    sort_of[start, stop] = numbers
    return Alike(sort_of, *(np.append(edge, 0) for edge in np.divmod(places, count + 1)))
