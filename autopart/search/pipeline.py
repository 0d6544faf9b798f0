"""The pipeline search: where to cut a chain of units into stages, exactly, by dynamic programming."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import BUCKET_BYTES, Keeping, crossing_bytes

Matrix: TypeAlias = NDArray[np.float64]


class CutSearch:
    """The cuts of one chain of units under one way of keeping; its tables serve every number of stages.

    Args:
        costs: of the units, as they are recomputed.
        keeping: how the state of parameters is kept.
        allowed: cut only before these units; left out, before any.

    Attributes:
        duration: of both passes of the stage from any unit (row) up to any other (column), infinite where none can be.
        memory: of these stages.
    """

    def __init__(self, costs: Sequence[UnitCost], keeping: Keeping, allowed: Sequence[int] | None = None) -> None:
        self._keeping, self._count = keeping, len(costs)
        time = _prefix([cost.forward_s + cost.backward_s + cost.again_s for cost in costs])
        usable = np.ones(len(costs) + 1, dtype=bool)
        if allowed is not None:
            usable[:] = False
            usable[[0, *allowed, len(costs)]] = True
        possible = np.triu(usable[:, None] & usable[None, :], 1)
        self.duration = np.where(possible, time[None, :] - time[:, None], np.inf)
        self.memory = StageMemory.of(costs, keeping)

    def cuts(self, stages: int, in_flight: Sequence[int], limit_bytes: float) -> tuple[int, ...] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits.

            first[s][j]  = min over i of max(first[s-1][i], time(i, j))         the least slowest stage
            second[s][j] = min over i of second[s-1][i] + time(i, j)**2         where no time exceeds first[stages][all]

        for i < j and memory(s, i, j) <= limit.

        Args:
            stages: how many stages.
            in_flight: for each stage, the most micro-batches in flight.
            limit_bytes: what tensors can have of a device.

        Returns:
            The indices of the units that begin the second and later stages.
        """
        if stages > self._count:
            return None
        return best_cuts(self.fitting(in_flight[:stages], limit_bytes))

    def fitting(self, in_flight: Sequence[int], limit_bytes: float) -> list[Matrix]:
        """For each stage `duration`, infinite where it does not fit; stages with as many in flight share a matrix."""
        room = self.memory.free_bytes(limit_bytes, self._keeping) - self.memory.beside
        known: dict[int, Matrix] = {}
        for flying in in_flight:
            if flying not in known:
                known[flying] = np.where(self.memory.kept * flying <= room, self.duration, np.inf)
        return [known[flying] for flying in in_flight]


def search_cuts(
    costs: Sequence[UnitCost],
    stages: int,
    in_flight: Sequence[int],
    limit_bytes: float,
    keeping: Keeping,
    allowed: Sequence[int] | None = None,
) -> tuple[int, ...] | None:
    """The best cuts of one chain into one number of stages; arguments and result are those of `CutSearch`."""
    return CutSearch(costs, keeping, allowed).cuts(stages, in_flight, limit_bytes)


def best_cuts(durations: Sequence[Matrix]) -> tuple[int, ...] | None:
    """The cuts that make the slowest stage fastest, and among those the other stages even; None if there are none.

    `durations[s][i, j]` is the time of stage s if it has the units from i up to j, infinite where it cannot.
    """
    slowest = least_slowest(durations)
    if not np.isfinite(slowest):
        return None
    within = slowest * (1 + 1e-9)
    squares = {id(own): np.where(own <= within, own, np.inf) ** 2 for own in durations}
    return _most_even([squares[id(own)] for own in durations])


def least_slowest(durations: Sequence[Matrix]) -> float:
    """The least time of the slowest stage of any chain of stages from the first unit to the last."""
    best = np.full(len(durations[0]), np.inf)
    best[0] = 0.0
    for duration in durations:
        best = np.maximum(best[:, None], duration).min(axis=0)
    return float(best[-1])


def _most_even(costs: Sequence[Matrix]) -> tuple[int, ...]:
    """The cuts of the chain of stages, from the first unit to the last, whose `costs[start, stop]` add up to least."""
    best = np.full(len(costs[0]), np.inf)
    best[0] = 0.0
    choices: list[NDArray[np.intp]] = []
    for own in costs:
        joined = best[:, None] + own
        choices.append(joined.argmin(axis=0))
        best = np.take_along_axis(joined, choices[-1][None], axis=0)[0]
    cuts = []
    end = len(best) - 1
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return tuple(reversed(cuts[:-1]))


@dataclass(frozen=True)
class StageMemory:
    """What `stage_memory` adds up, for the stage from any unit (row) up to any other (column).

    Attributes:
        held: bytes of its parameters; `largest` of the largest one.
        kept: of one micro-batch in flight, with what crosses its cuts.
        beside: the most besides those in flight, while one of its units runs backward.
    """

    held: Matrix
    largest: Matrix
    kept: Matrix
    beside: Matrix

    @classmethod
    def of(cls, costs: Sequence[UnitCost], keeping: Keeping) -> "StageMemory":
        """That of every stage of a chain of units."""
        kept = _prefix([cost.kept_bytes for cost in costs])
        beside = [cost.working_bytes + keeping.temporary_bytes(cost) for cost in costs]
        cuts = np.array([(0.0, 0.0), *(crossing_bytes(cost, keeping) for cost in costs[:-1]), (0.0, 0.0)])
        held = _prefix([sum(size for _, size, _ in cost.parameters) for cost in costs])
        return cls(
            held[None, :] - held[:, None] - _held_twice(costs),
            _largest([max((size for _, size, _ in cost.parameters), default=0.0) for cost in costs]),
            kept[None, :] - kept[:, None] + cuts[:, None, 1] + cuts[None, :, 0],
            np.maximum(
                0.0, _largest([own + there for own, there in zip(beside, kept[1:], strict=True)]) - kept[None, :]
            ),
        )

    def free_bytes(self, limit_bytes: float, keeping: Keeping) -> Matrix:
        """What every stage has left for activations, in flight and `beside`; -inf where it does not fit."""
        state = self.held * keeping.copies + keeping.stack.buffer_bytes
        # When no activations are left, see `Keeping.after_bytes` and `Keeping.flat_bytes`.
        after = np.maximum(keeping.step_bytes(1.0) * self.held, keeping.flat_bytes(self.held, self.largest))
        if keeping.replicas > 1:
            after = np.maximum(after, np.minimum(BUCKET_BYTES, 2 * self.held))
        return np.where(state + after <= limit_bytes, limit_bytes - state, -np.inf)


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
