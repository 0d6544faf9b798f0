"""The pipeline search: where to cut a chain of units into stages, exactly, by dynamic programming."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import BUCKET_BYTES, Keeping, crossing_bytes
from autopart.estimate.recompute import NONE
from autopart.search.mixes import Mixes, Stages

Matrix: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]
ROUNDING = 1e-9
HALVINGS = 10  # of the time within which the least slowest stage is known to be


class CutSearch:
    """The cuts of one chain of units under one way of keeping; its tables serve every number of stages.

    Args:
        costs: of the units, as they are recomputed in any case.
        keeping: how the state of parameters is kept.
        allowed: cut only before these units; left out, before any.
        held: the parameters of `costs`, where they are known.
        mixes: what stages may recompute besides, so that they fit: a stage takes as long as with the fastest of them.
    """

    def __init__(
        self,
        costs: Sequence[UnitCost],
        keeping: Keeping,
        allowed: Sequence[int] | None = None,
        held: "Held | None" = None,
        mixes: Mixes | None = None,
    ) -> None:
        self._keeping, self._count, self._mixes = keeping, len(costs), mixes
        self._time = _prefix([cost.forward_s + cost.backward_s + cost.again_s for cost in costs])
        self._duration = self._time[None, :] - self._time[:, None]
        usable = np.array([True, *(cost.cut_behind for cost in costs[:-1]), True])
        if allowed is not None:
            usable &= np.isin(np.arange(len(costs) + 1), [0, *allowed, len(costs)])
        self._possible = np.triu(usable[:, None] & usable[None, :], 1)
        saved = np.zeros(len(costs)) if mixes is None else mixes.most_saved
        self._memory = _Memory.of(costs, keeping, held or Held.of(costs), saved)
        self._rooms: dict[float, Matrix] = {}
        self._chosen: dict[tuple[int, int, float, float], tuple[str, ...]] = {}

    def cuts(self, stages: int, in_flight: Sequence[float], limit_bytes: float) -> tuple[int, ...] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits.

            first[s][j]  = min over i of max(first[s-1][i], time(i, j))         the least slowest stage
            second[s][j] = min over i of second[s-1][i] + time(i, j)**2         where no time exceeds first[stages][all]

        for i < j and memory(s, i, j) <= limit.

        Where no stage may take more than some time, few units can be the first of a stage, see `_blocks`. Stages as
        even as can be are tried first, and where they do not fit the memory, less even ones.

        Args:
            stages: how many stages.
            in_flight: for each stage, the most micro-batches in flight.
            limit_bytes: what tensors can have of a device.

        Returns:
            The indices of the units that begin the second and later stages.
        """
        if stages > self._count:
            return None
        room = self._room(limit_bytes)
        for most_s in self._limits_s(stages) if self._may_fit(in_flight[:stages], room) else ():
            blocks = self._blocks(in_flight[:stages], room, most_s)
            slowest = _least_slowest(blocks)
            if np.isfinite(slowest):
                within = slowest * (1 + ROUNDING)
                even = (np.where(own.duration <= within, own.duration, np.inf) for own in blocks)
                return _most_even([_Block(own.start, times) for own, times in zip(blocks, even, strict=True)])
        return None

    def kinds(self, cuts: Sequence[int], in_flight: Sequence[float], limit_bytes: float) -> tuple[str, ...]:
        """How every unit is recomputed with these cuts, in the fastest mix of each stage."""
        if self._mixes is None:
            return (NONE,) * self._count
        start, stop = np.array([0, *cuts]), np.array([*cuts, self._count])
        flying, room = np.array(in_flight[: len(start)], dtype=np.float64), self._room(limit_bytes)
        keys = list(zip(start.tolist(), stop.tolist(), in_flight, repeat(limit_bytes), strict=False))
        fits = flying * self._memory.kept[start, stop] <= room[start, stop]
        known = {key: (NONE,) * (key[1] - key[0]) for key, own in zip(keys, fits, strict=True) if own}
        asked = [place for place, key in enumerate(keys) if key not in known and key not in self._chosen]
        if asked:
            found = self._mixes.kinds(self._stages(start[asked], stop[asked], flying[asked], room))
            self._chosen.update((keys[place], own) for place, own in zip(asked, found, strict=True))
        return tuple(kind for key in keys for kind in (known.get(key) or self._chosen[key]))

    def _stages(self, start: Places, stop: Places, flying: NDArray[np.float64], room: Matrix) -> Stages:
        free = room[start, stop] + self._memory.beside[start, stop]
        return Stages(start, stop, flying, free, self._memory.kept[start, stop])

    def _room(self, limit_bytes: float) -> Matrix:
        if limit_bytes not in self._rooms:
            self._rooms[limit_bytes] = self._memory.room_bytes(limit_bytes, self._keeping)
        return self._rooms[limit_bytes]

    def _may_fit(self, in_flight: Sequence[float], room: Matrix) -> bool:
        """Whether stages that each take as many units as fit get to the last one.

        A stage that begins earlier needs no less up to the same unit, but that it may receive less: where it could
        begin so early that it needs least is what `earlier` allows for.
        """
        start, memory = 0, self._memory
        for flying in in_flight:
            needs = (memory.least[start] + memory.earlier[start]) * flying
            (fitting,) = np.nonzero(self._possible[0] & (needs <= room[start]))
            start = max(start, int(fitting[-1])) if fitting.size else start
        return start == self._count

    def _limits_s(self, stages: int) -> tuple[float, ...]:
        """Seconds that no stage may take, to be tried in turn: about the least there are, memory aside; then all."""
        time, largest = self._time.tolist(), float(np.diff(self._time).max())
        least = max(time[-1] / stages, largest)
        most = least + largest  # stages that take units until they have an even share do not take more
        for _ in range(HALVINGS):
            middle, start = (least + most) / 2, 0
            for _ in range(stages):
                start = bisect_right(time, time[start] + middle) - 1
            least, most = (least, middle) if start == self._count else (middle, most)
        all_s = time[-1] if self._mixes is None else time[-1] + self._mixes.most_again_s
        return most, 1.25 * most, 2 * most, all_s

    def _blocks(self, in_flight: Sequence[float], room: Matrix, most_s: float) -> list["_Block"]:
        """For each stage the durations from any of its first units to any next stage's, infinite where it cannot be.

        A unit can be the first of stage s if those before it can be done in s stages, and the others in the rest.
        """
        number, stages, rounding = np.arange(len(in_flight) + 1), len(in_flight), 1e-9 * self._time[-1]
        first = np.searchsorted(self._time, self._time[-1] - (stages - number) * most_s - rounding)
        stop = np.searchsorted(self._time, number * most_s + rounding, side="right")
        first = np.maximum(first, number).tolist()
        stop = np.minimum(stop, self._count + 1 - (stages - number)).tolist()
        first[0], stop[0], first[-1], stop[-1] = 0, 1, self._count, self._count + 1
        blocks, full = [], []
        for stage, flying in enumerate(in_flight):
            own = slice(first[stage], stop[stage]), slice(first[stage + 1], stop[stage + 1])
            duration = self._duration[own]
            possible = self._possible[own] & (duration <= most_s * (1 + ROUNDING))
            fits = possible & (self._memory.kept[own] * flying <= room[own])
            blocks.append(_Block(first[stage], np.where(fits, duration, np.inf)))
            if self._mixes is not None:
                may_fit = possible & ~fits & (self._memory.least[own] * flying <= room[own])
                full.append(np.argwhere(may_fit) + np.array(first[stage : stage + 2]))
        if self._mixes is not None and any(map(len, full)):
            self._mix(self._mixes, blocks, full, in_flight, room, most_s)
        return blocks

    def _mix(
        self,
        mixes: Mixes,
        blocks: Sequence["_Block"],
        full: Sequence[Places],
        in_flight: Sequence[float],
        room: Matrix,
        most_s: float,
    ) -> None:
        """Put in the durations of stages that fit only if layers are recomputed: for each stage, `full` has the pairs
        of its first unit and the next stage's.
        """
        start, stop = np.concatenate(full).T
        lengths = [len(pairs) for pairs in full]
        flying = np.repeat(np.array(in_flight, dtype=np.float64), lengths)
        seconds = self._duration[start, stop] + mixes.again_s(self._stages(start, stop, flying, room))
        seconds[seconds > most_s * (1 + ROUNDING)] = np.inf
        ends = np.cumsum(lengths)
        for block, following, pairs, times in zip(
            blocks, (*blocks[1:], None), full, np.split(seconds, ends[:-1]), strict=True
        ):
            first = following.start if following is not None else self._count
            block.duration[pairs[:, 0] - block.start, pairs[:, 1] - first] = times


@dataclass(frozen=True, slots=True)
class _Block:
    """Durations of a stage, by its first unit (row), from unit number `start` on, and by the next stage's (column)."""

    start: int
    duration: Matrix


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


def _least_slowest(blocks: Sequence[_Block]) -> float:
    """The least time of the slowest stage of any chain of stages from the first unit to the last."""
    best = np.zeros(1)
    for block in blocks:
        if not block.duration.size:
            return float("inf")
        best = np.maximum(best[:, None], block.duration).min(axis=0)
    return float(best[-1])


def _most_even(blocks: Sequence[_Block]) -> tuple[int, ...]:
    """The cuts of the chain of stages, from the first unit to the last, whose squared durations add up to least."""
    best = np.zeros(1)
    choices: list[NDArray[np.intp]] = []
    for block in blocks:
        joined = best[:, None] + block.duration**2
        choices.append(joined.argmin(axis=0))
        best = joined.min(axis=0)
    cuts, place = [], 0
    for block, choice in zip(reversed(blocks), reversed(choices), strict=True):
        place = int(choice[place])
        cuts.append(block.start + place)
    return tuple(reversed(cuts[:-1]))


@dataclass(frozen=True)
class Held:
    """Bytes of the parameters of the stage from any unit (row) up to any other (column), and of the largest of them."""

    sum: Matrix
    largest: Matrix

    @classmethod
    def of(cls, costs: Sequence[UnitCost]) -> "Held":
        """Those of a chain."""
        held = _prefix([sum(size for _, size, _ in cost.parameters) for cost in costs])
        return cls(
            held[None, :] - held[:, None] - _held_twice(costs),
            _largest([max((size for _, size, _ in cost.parameters), default=0.0) for cost in costs]),
        )


@dataclass(frozen=True)
class _Memory:
    """What `stage_memory` adds up, for the stage from any unit (row) up to any other (column).

    `resident` are parameters that are gathered for a whole pass. `least` is what is kept if as much as can be is
    recomputed. `earlier` is 0, or by how much less of that is kept by a stage that begins before a unit than by one
    that begins with it.
    """

    held: Matrix
    largest: Matrix
    resident: Matrix
    kept: Matrix
    least: Matrix
    beside: Matrix
    earlier: NDArray[np.float64]

    @classmethod
    def of(cls, costs: Sequence[UnitCost], keeping: Keeping, held: "Held", saved: NDArray[np.float64]) -> "_Memory":
        kept = _prefix([cost.kept_bytes for cost in costs])
        least = kept - np.concatenate([[0.0], np.cumsum(saved)])
        beside = [cost.working_bytes + keeping.temporary_bytes(cost) for cost in costs]
        cuts = np.array([(0.0, 0.0), *(crossing_bytes(cost, keeping) for cost in costs[:-1]), (0.0, 0.0)])
        return cls(
            held.sum,
            held.largest,
            _resident(costs, keeping),
            kept[None, :] - kept[:, None] + cuts[:, None, 1] + cuts[None, :, 0],
            least[None, :] - least[:, None] + cuts[:, None, 1] + cuts[None, :, 0],
            np.maximum(
                0.0, _largest([own + there for own, there in zip(beside, kept[1:], strict=True)]) - kept[None, :]
            ),
            np.minimum.accumulate(cuts[:, 1] - least) - (cuts[:, 1] - least),
        )

    def room_bytes(self, limit_bytes: float, keeping: Keeping) -> Matrix:
        """What every stage has left for what it keeps of micro-batches in flight; below 0 where it does not fit."""
        state = self.held * keeping.copies + keeping.stack.buffer_bytes
        # When no activations are left, see `Keeping.after_bytes` and `Keeping.flat_bytes`.
        after = np.maximum(keeping.step_bytes(1.0) * self.held, keeping.flat_bytes(self.held, self.largest))
        if keeping.replicas > 1:
            after = np.maximum(after, np.minimum(BUCKET_BYTES, 2 * self.held))
        return np.where(state + after <= limit_bytes, limit_bytes - (state + self.resident + self.beside), -1.0)


def _resident(costs: Sequence[UnitCost], keeping: Keeping) -> Matrix:
    if not any(keeping.resident(cost) for cost in costs):
        return np.zeros((len(costs) + 1, len(costs) + 1))
    return Held.of([cost if keeping.resident(cost) else replace(cost, parameters=()) for cost in costs]).sum


def _held_twice(costs: Sequence[UnitCost]) -> Matrix:
    """Bytes of parameters that several units of a stage use, counted for each but one."""
    twice = np.zeros((len(costs) + 1, len(costs) + 1))
    last: dict[str, int] = {}
    for index, cost in enumerate(costs):
        for target, size, _ in cost.parameters:
            if target in last:
                twice[: last[target] + 1, index + 1 :] += size
            last[target] = index
    return twice


def _largest(values: Sequence[float]) -> Matrix:
    """`[i, j]`: the largest of values i up to j; 0 where there are none."""
    count = len(values)
    table = np.zeros((count + 1, count + 1))
    table[:, 1:] = np.triu(np.broadcast_to(np.asarray(values, dtype=np.float64), (count + 1, count)))
    return np.asarray(np.maximum.accumulate(table, axis=1))


def _prefix(values: Sequence[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])
