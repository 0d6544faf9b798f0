"""MixedCutSearch: where to cut a chain of units whose stages lie on different devices, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.search.pipeline import CutSearch

ROUNDING = 1e-9
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
            own.pace * np.cumsum([0.0, *(cost.forward_s + cost.backward_s + cost.again_s for cost in own.costs)])
            for own in groups
        ]

    def cuts(self, stages: int, in_flight: Sequence[float], limit_bytes: float) -> tuple[int, ...] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits."""
        if stages > self._count:
            return None
        for most_s in self._limits_s():
            tables = self._tables(in_flight[:stages], limit_bytes, most_s)
            slowest = _least_slowest(tables)
            if np.isfinite(slowest):
                within = slowest * (1 + ROUNDING)
                return _most_even([np.where(own <= within, own, np.inf) for own in tables])
        return None

    def kinds(self, cuts: Sequence[int], in_flight: Sequence[float], limit_bytes: float) -> tuple[str, ...]:
        """How every unit is recomputed with these cuts, in the fastest mix of each stage."""
        every = [own.search.kinds(cuts, in_flight, limit_bytes * own.memory) for own in self._groups]
        places = unit_groups(self._stage_groups, cuts, self._count)
        return tuple(every[group][unit] for unit, group in enumerate(places))

    def _tables(self, in_flight: Sequence[float], limit_bytes: float, most_s: float) -> list[Matrix]:
        """For each stage its durations, by its first unit and the next stage's; those above `most_s` are infinite."""
        known: dict[tuple[int, float], Matrix] = {}
        for key in zip(self._stage_groups, in_flight, strict=True):
            if key not in known:
                group, flying = self._groups[key[0]], key[1]
                limit = limit_bytes * group.memory
                known[key] = group.pace * group.search.durations_s(flying, limit, most_s * (1 + ROUNDING) / group.pace)
        return [known[key] for key in zip(self._stage_groups, in_flight, strict=True)]

    def _limits_s(self) -> tuple[float, ...]:
        """Seconds that no stage may take, to be tried in turn: the least there are, memory aside; more; then all."""
        least, most = 0.0, max(float(time[-1]) for time in self._times)
        for _ in range(HALVINGS):
            middle, start = (least + most) / 2, 0
            for group in self._stage_groups:
                time = self._times[group]
                start = int(np.searchsorted(time, time[start] + middle, side="right")) - 1
            least, most = (least, middle) if start == self._count else (middle, most)
        return 1.1 * most, 2 * most, float("inf")


def unit_groups(stage_groups: Sequence[int], cuts: Sequence[int], count: int) -> tuple[int, ...]:
    """For each of `count` units the group of its stage."""
    bounds = [0, *cuts, count]
    return tuple(group for stage, group in enumerate(stage_groups) for _ in range(bounds[stage + 1] - bounds[stage]))


def _least_slowest(tables: Sequence[Matrix]) -> float:
    """The least time of the slowest stage of any chain of stages from the first unit to the last."""
    best = np.where(np.arange(len(tables[0])) == 0, 0.0, np.inf)
    for table in tables:
        best = np.maximum(best[:, None], table).min(axis=0)
    return float(best[-1])


def _most_even(tables: Sequence[Matrix]) -> tuple[int, ...]:
    """The cuts of the chain of stages, from the first unit to the last, whose squared durations add up to least."""
    best = np.where(np.arange(len(tables[0])) == 0, 0.0, np.inf)
    choices = []
    for table in tables:
        joined = best[:, None] + table**2
        choices.append(joined.argmin(axis=0))
        best = joined.min(axis=0)
    cuts, place = [], len(best) - 1
    for choice in reversed(choices):
        place = int(choice[place])
        cuts.append(place)
    return tuple(reversed(cuts[:-1]))
