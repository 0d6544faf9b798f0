"""MixedCutSearch: where to cut a chain of units whose stages lie on different devices, exactly."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.search.even_cuts import ROUNDING, even_cuts
from autopart.search.pipeline import CutSearch

HALVINGS = 20

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupOfStages:
    """What the stages on one kind of devices have in common.

    Attributes:
        search: prices stages by the units' costs there.
        costs: those costs.
        pace: how many times these seconds a pass takes.
        memory: bytes that tensors can have of a device, as a multiple of the limit that cuts are asked for.
    """

    search: CutSearch
    costs: tuple[UnitCost, ...]
    pace: float
    memory: float


class MixedCutSearch:
    """As `CutSearch`, with devices of its own for each stage: `stage_groups` says which of the `groups` it is of."""

    def __init__(self, groups: Sequence[GroupOfStages], stage_groups: Sequence[int]) -> None:
        self._groups, self._stage_groups = groups, stage_groups
        self._count = len(groups[0].costs)
        self._times = [
            list(accumulate((own.pace * (x.forward_s + x.backward_s + x.again_s) for x in own.costs), initial=0.0))
            for own in groups
        ]

    def cuts(self, stages: int, in_flight: Sequence[float], limit_bytes: float) -> tuple[int, ...] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits."""
        if stages > self._count:
            return None
        for most_s in self._limits_s():
            found = even_cuts(*self._tables(in_flight[:stages], limit_bytes, most_s), most_s)
            if found is not None:
                return found
        return None

    def kinds(self, cuts: Sequence[int], in_flight: Sequence[float], limit_bytes: float) -> tuple[str, ...]:
        """How every unit is recomputed with these cuts, in the fastest mix of each stage."""
        every = [own.search.kinds(cuts, in_flight, limit_bytes * own.memory) for own in self._groups]
        places = unit_groups(self._stage_groups, cuts, self._count)
        return tuple(every[group][unit] for unit, group in enumerate(places))

    def _tables(self, in_flight: Sequence[float], limit_bytes: float, most_s: float) -> tuple[list[int], list[Matrix]]:
        """The first unit that each stage may begin with, and its durations, of which none is more than `most_s`.

        A unit can be the first of a stage if those before it can be done in the stages before, and the others in the
        rest.
        """
        most_s *= 1 + ROUNDING
        last, first = self._furthest(most_s), self._earliest(most_s)
        spans = [slice(a, b + 1) for a, b in zip(first, last, strict=True)]
        stages = list(zip(in_flight, spans, spans[1:], strict=False))
        found: dict[int, Matrix] = {}
        for number, group in enumerate(self._groups):
            own = [stage for stage, place in enumerate(self._stage_groups) if place == number]
            limits = limit_bytes * group.memory, most_s / group.pace
            tables = group.search.durations_s([stages[stage] for stage in own], *limits)
            found.update((stage, group.pace * table) for stage, table in zip(own, tables, strict=True))
        return first[:-1], [found[stage] for stage in range(len(stages))]

    def _furthest(self, most_s: float) -> list[int]:
        """How many units the first stages can do, none, one, two of them and so on."""
        ends = [0]
        for group in self._stage_groups:
            time = self._times[group]
            ends.append(bisect_right(time, time[ends[-1]] + most_s) - 1)
        return ends

    def _earliest(self, most_s: float) -> list[int]:
        """For each stage the first unit from which on it and those behind it can do all; then the number of units."""
        starts = [self._count]
        for group in reversed(self._stage_groups):
            time = self._times[group]
            starts.append(bisect_left(time, time[starts[-1]] - most_s))
        return [0, *reversed(starts[:-1])]

    def _limits_s(self) -> tuple[float, ...]:
        """Seconds that no stage may take, to be tried in turn: the least there are, memory aside; more; then all."""
        least, most = 0.0, max(time[-1] for time in self._times)
        for _ in range(HALVINGS):
            middle = (least + most) / 2
            least, most = (least, middle) if self._furthest(middle)[-1] == self._count else (middle, most)
        return 1.1 * most, 2 * most, 1e9 * most


def unit_groups(stage_groups: Sequence[int], cuts: Sequence[int], count: int) -> tuple[int, ...]:
    """For each of `count` units the group of its stage."""
    bounds = [0, *cuts, count]
    return tuple(group for stage, group in enumerate(stage_groups) for _ in range(bounds[stage + 1] - bounds[stage]))
