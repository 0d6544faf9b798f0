"""The pipeline search: where to cut a chain of units into stages, exactly, by dynamic programming."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.estimate.memory import BUCKET_BYTES, Keeping, crossing_bytes
from autopart.estimate.recompute import NONE
from autopart.search.alike import Alike, UnitSorts, alike_stages
from autopart.search.even_cuts import ROUNDING, even_cuts
from autopart.search.even_shares import slowest_within_s
from autopart.search.mixes import Mixes, Stages

Values: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]
Parameters: TypeAlias = tuple[tuple[str, float, int], ...]


class CutSearch:
    """The cuts of one chain of units under one way of keeping; its tables serve every number of stages.

    Args:
        costs: of the units, as they are recomputed in any case.
        keeping: how the state of parameters is kept.
        allowed: cut only before these units; left out, before any.
        mixes: what stages may recompute besides, so that they fit: a stage takes as long as with the fastest of them.
        sorts: of the units, where they are known.
    """

    def __init__(
        self,
        costs: Sequence[UnitCost],
        keeping: Keeping,
        allowed: Sequence[int] | None = None,
        mixes: Mixes | None = None,
        sorts: UnitSorts | None = None,
    ) -> None:
        self._keeping, self._count, self._mixes = keeping, len(costs), mixes
        self._time = _prefix([cost.forward_s + cost.backward_s + cost.again_s for cost in costs])
        usable = np.array([True, *(cost.cut_behind for cost in costs[:-1]), True])
        if allowed is not None:
            usable &= np.isin(np.arange(len(costs) + 1), [0, *allowed, len(costs)])
        crossing = [0.0, *(cost.crossing_bytes for cost in costs[:-1]), 0.0]
        self._usable = usable
        edges = list(zip(usable.tolist(), crossing, strict=True))
        sorts = sorts or UnitSorts.of(costs)
        alike = self._alike = alike_stages(sorts.with_edges(edges))
        possible = usable[alike.start] & usable[alike.stop] & (alike.start < alike.stop)
        self._duration = np.where(possible, self._time[alike.stop] - self._time[alike.start], np.inf)
        saved = np.zeros(len(costs)) if mixes is None else mixes.most_saved
        self._memory = _Memory.of(costs, keeping, saved, sorts, alike)
        self._rooms: dict[float, Values] = {}
        self._known: dict[tuple[float, float], tuple[float, Values]] = {}
        self._chosen: dict[tuple[int, float, float], tuple[str, ...]] = {}
        self._free: dict[int, tuple[int, ...] | None] = {}

    def cuts(
        self, stages: int, in_flight: Sequence[float], limit_bytes: float, least_s: float = 0.0
    ) -> tuple[int, ...] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits.

            first[s][j]  = min over i of max(first[s-1][i], time(i, j))         the least slowest stage
            second[s][j] = min over i of second[s-1][i] + time(i, j)**2         where no time exceeds first[stages][all]

        for i < j and memory(s, i, j) <= limit.

        Where no stage may take more than some time, few units can be the first of a stage, see `_best_within`. Stages
        as even as can be are tried first, and where they do not fit the memory, less even ones.

        Args:
            stages: how many stages.
            in_flight: for each stage, the most micro-batches in flight.
            limit_bytes: what tensors can have of a device.
            least_s: where something has to be recomputed in any case, what the slowest stage takes at the least.

        Returns:
            The indices of the units that begin the second and later stages.
        """
        if stages > self._count:
            return None
        room = self._room(limit_bytes)
        if not least_s:
            free = self._free_cuts(stages)
            if free is None or self._fits(free, in_flight[:stages], room):
                return free
        if not self._may_fit(in_flight[:stages], room):
            return None
        *limits_s, all_s = self._limits_s(stages)
        for most_s in (*(own for own in limits_s if own >= least_s), all_s):
            seconds = self._seconds(in_flight[:stages], limit_bytes, most_s)
            if (found := self._best_within(most_s, seconds)) is not None:
                return found
        return None

    def _free_cuts(self, stages: int) -> tuple[int, ...] | None:
        """The cuts if memory had no limit: where they fit, they are the best."""
        if stages not in self._free:
            limits_s = self._limits_s(stages)[0], float(self._time[-1])  # the latter where places to cut are few
            every = (self._best_within(most_s, [self._duration] * stages) for most_s in limits_s)
            self._free[stages] = next((found for found in every if found is not None), None)
        return self._free[stages]

    def _fits(self, cuts: Sequence[int], in_flight: Sequence[float], room: Values) -> bool:
        """Whether the stages fit without recomputation."""
        sorts = self._alike.sort_of[[0, *cuts], [*cuts, self._count]]
        return bool((np.array(in_flight) * self._memory.kept[sorts] <= room[sorts]).all())

    def durations_s(
        self, stages: Sequence[tuple[float, slice, slice]], limit_bytes: float, most_s: float
    ) -> list[Matrix]:
        """Seconds of some stages, for every unit that may be their first (row) and the next stage's (column); infinite
        where they do not fit, or take more than `most_s`.

        Args:
            stages: of each the micro-batches in flight, and the units of rows and columns.
            limit_bytes: what tensors can have of a device.
            most_s: seconds that no stage may take.
        """
        seconds = self._seconds([flying for flying, _, _ in stages], limit_bytes, most_s)
        found = []
        for own, (_, rows, columns) in zip(seconds, stages, strict=True):
            table = own.take(self._alike.sort_of[rows, columns])
            found.append(np.where(table <= most_s, table, np.inf))
        return found

    def kinds(self, cuts: Sequence[int], in_flight: Sequence[float], limit_bytes: float) -> tuple[str, ...]:
        """How every unit is recomputed with these cuts, in the fastest mix of each stage."""
        if self._mixes is None:
            return (NONE,) * self._count
        sorts = self._alike.sort_of[[0, *cuts], [*cuts, self._count]]
        flying, room = np.array(in_flight[: len(sorts)], dtype=np.float64), self._room(limit_bytes)
        keys = list(zip(sorts.tolist(), in_flight, repeat(limit_bytes), strict=False))
        asked = [
            place
            for place, fits in enumerate((flying * self._memory.kept[sorts] <= room[sorts]).tolist())
            if not fits and keys[place] not in self._chosen
        ]
        if asked:
            found = self._mixes.kinds(self._stages(sorts[asked], flying[asked], room))
            self._chosen.update((keys[place], own) for place, own in zip(asked, found, strict=True))
        lengths = np.diff([0, *cuts, self._count]).tolist()
        none = ((NONE,) * length for length in lengths)
        return tuple(kind for key, whole in zip(keys, none, strict=True) for kind in self._chosen.get(key, whole))

    def _stages(self, sorts: Places, flying: Values, room: Values) -> Stages:
        free = room[sorts] + self._memory.beside[sorts]
        return Stages(self._alike.start[sorts], self._alike.stop[sorts], flying, free, self._memory.kept[sorts])

    def _room(self, limit_bytes: float) -> Values:
        if limit_bytes not in self._rooms:
            self._rooms[limit_bytes] = self._memory.room_bytes(limit_bytes, self._keeping)
        return self._rooms[limit_bytes]

    def _may_fit(self, in_flight: Sequence[float], room: Values) -> bool:
        """Whether stages that each take as many units as fit get to the last one.

        A stage that begins earlier needs no less up to the same unit, but that it may receive less: where it could
        begin so early that it needs least is what `earlier` allows for.
        """
        start, memory = 0, self._memory
        for flying in in_flight:
            if start == self._count:
                break
            sorts = self._alike.sort_of[start, start + 1 :]
            needs = (memory.least[sorts] + memory.earlier[start]) * flying
            (fitting,) = np.nonzero(self._usable[start + 1 :] & (needs <= room[sorts]))
            start = max(start, start + 1 + int(fitting[-1])) if fitting.size else start
        return start == self._count

    def _limits_s(self, stages: int) -> tuple[float, ...]:
        """Seconds that no stage may take, to be tried in turn: about the least there are, memory aside; then all."""
        _, most = slowest_within_s(self._time.tolist(), stages)
        all_s = float(self._time[-1]) + (0.0 if self._mixes is None else self._mixes.most_again_s)
        return most, 1.25 * most, 2 * most, all_s

    def tables(self, in_flight: Sequence[float], limit_bytes: float, most_s: float) -> tuple[list[int], list[Matrix]]:
        """Of each stage the unit that the first row is of, and `durations_s` for all that may be its first unit (row)
        and the next stage's (column) where no stage takes more than `most_s`.
        """
        stages = len(in_flight)
        if stages > self._count:
            return [0] * stages, [np.zeros((0, 0))] * stages
        windows = self._windows(stages, most_s)
        asked = [(flying, *pair) for flying, pair in zip(in_flight, pairwise(windows), strict=True)]
        return [own.start for own in windows[:-1]], self.durations_s(asked, limit_bytes, most_s)

    def _windows(self, stages: int, most_s: float) -> list[slice]:
        """The units that can be the first of each stage, and behind the last, where none takes more than `most_s`.

        A unit can be the first of stage s if those before it can be done in s stages, and the others in the rest.
        """
        number, rounding = np.arange(stages + 1), 1e-9 * self._time[-1]
        first = np.searchsorted(self._time, self._time[-1] - (stages - number) * most_s - rounding)
        stop = np.searchsorted(self._time, number * most_s + rounding, side="right")
        first, stop = np.maximum(first, number), np.minimum(stop, self._count + 1 - (stages - number))
        firsts = [0, *first[1:-1].tolist(), self._count]
        return list(map(slice, firsts, [1, *stop[1:-1].tolist(), self._count + 1]))

    def _best_within(self, most_s: float, seconds: Sequence[Values]) -> tuple[int, ...] | None:
        """The best cuts where no stage takes more than `most_s`; `seconds` are every sort of stages, for each."""
        windows = self._windows(len(seconds), most_s)
        tables = [own.take(self._alike.sort_of[at]) for own, at in zip(seconds, pairwise(windows), strict=True)]
        return even_cuts([own.start for own in windows[:-1]], tables, most_s)

    def _seconds(self, in_flight: Sequence[float], limit_bytes: float, most_s: float) -> list[Values]:
        """For each stage, the seconds that every sort of stages takes there in the fastest mix that fits.

        Infinite where none fits, or where it takes more than `most_s` without recomputation.
        """
        missing = [f for f in dict.fromkeys(in_flight) if self._known.get((f, limit_bytes), (0.0,))[0] < most_s]
        if missing:
            room, memory, flying = self._room(limit_bytes), self._memory, np.array(missing, dtype=np.float64)[:, None]
            possible = self._duration <= most_s * (1 + ROUNDING)
            fits = possible & (memory.kept * flying <= room)
            seconds = np.where(fits, self._duration, np.inf)
            if self._mixes is not None:
                rank, sorts = np.nonzero(possible & ~fits & (memory.least * flying <= room))
                if rank.size:
                    again_s = self._mixes.again_s(self._stages(sorts, flying[rank, 0], room))
                    seconds[rank, sorts] = self._duration[sorts] + again_s
            self._known.update(((f, limit_bytes), (most_s, own)) for f, own in zip(missing, seconds, strict=True))
        return [self._known[f, limit_bytes][1] for f in in_flight]


def search_cuts(
    costs: Sequence[UnitCost],
    stages: int,
    in_flight: Sequence[float],
    limit_bytes: float,
    keeping: Keeping,
    allowed: Sequence[int] | None = None,
) -> tuple[int, ...] | None:
    """The best cuts of one chain into one number of stages; arguments and result are those of `CutSearch`."""
    return CutSearch(costs, keeping, allowed).cuts(stages, in_flight, limit_bytes)


@dataclass(frozen=True)
class _Memory:
    """What `stage_memory` adds up, for every sort of stages.

    `resident` are parameters that are gathered for a whole pass. `least` is what is kept if as much as can be is
    recomputed. `earlier` is, for each unit, 0, or by how much less of that is kept by a stage that begins before it
    than by one that begins with it.
    """

    held: Values
    largest: Values
    resident: Values
    kept: Values
    least: Values
    beside: Values
    earlier: Values

    @classmethod
    def of(
        cls, costs: Sequence[UnitCost], keeping: Keeping, saved: Values, sorts: UnitSorts, alike: Alike
    ) -> "_Memory":
        start, stop = alike.start, alike.stop
        kept = _prefix([cost.kept_bytes for cost in costs])
        least = kept - np.concatenate([[0.0], np.cumsum(saved)])
        beside = each_unit(costs, lambda cost: cost.working_bytes + keeping.temporary_bytes(cost))
        resident = each_unit(costs, lambda cost: cost.parameters if keeping.resident(cost) else ())
        largest = each_unit(costs, lambda cost: max((size for _, size, _ in cost.parameters), default=0.0))
        cuts = np.array([(0.0, 0.0), *each_unit(costs[:-1], lambda cost: crossing_bytes(cost, keeping)), (0.0, 0.0)])
        crossing = cuts[start, 1] + cuts[stop, 0]
        peaks = _largest([own + there for own, there in zip(beside, kept[1:].tolist(), strict=True)], alike)
        return cls(
            _held([cost.parameters for cost in costs], sorts.tied, alike),
            _largest(largest, alike),
            _held(resident, sorts.tied, alike),
            kept[stop] - kept[start] + crossing,
            least[stop] - least[start] + crossing,
            np.maximum(0.0, peaks - kept[stop]),
            np.minimum.accumulate(cuts[:, 1] - least) - (cuts[:, 1] - least),
        )

    def room_bytes(self, limit_bytes: float, keeping: Keeping) -> Values:
        """What every sort has left for what it keeps of micro-batches in flight; below 0 where it does not fit."""
        state = self.held * keeping.copies + keeping.stack.buffer_bytes
        # When no activations are left, see `Keeping.after_bytes` and `Keeping.flat_bytes`.
        after = np.maximum(keeping.step_bytes(1.0) * self.held, keeping.flat_bytes(self.held, self.largest))
        if keeping.replicas > 1:
            after = np.maximum(after, np.minimum(BUCKET_BYTES, 2 * self.held))
        return np.where(state + after <= limit_bytes, limit_bytes - (state + self.resident + self.beside), -1.0)


def _held(parameters: Sequence[Parameters], tied: frozenset[str], alike: Alike) -> Values:
    """Bytes of the parameters of each sort of stages; `tied` ones, that several units use, are there once."""
    sums = {id(own): sum([size for _, size, _ in own]) for own in parameters}
    held = _prefix([sums[id(own)] for own in parameters])
    found = held[alike.stop] - held[alike.start]
    for name in sorted(tied):
        users = [(unit, size) for unit, every in enumerate(parameters) for own, size, _ in every if own == name]
        if users:
            units = np.array([unit for unit, _ in users])
            inside = np.searchsorted(units, alike.stop) - np.searchsorted(units, alike.start)
            found -= users[0][1] * np.maximum(0, inside - 1)
    return np.asarray(found)


def _largest(values: Sequence[float], alike: Alike) -> Values:
    """The largest of the values that the units of each sort of stages have."""
    edges = np.stack([alike.start, alike.stop], axis=1).ravel()
    return np.asarray(np.maximum.reduceat(np.array([*values, 0.0]), edges)[::2])


def _prefix(values: Sequence[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])
