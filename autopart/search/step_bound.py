"""StepBound: what the step of a pipeline is not below, and the cuts for which that is least, by dynamic programming."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.recompute import BY_LAYER, NONE
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate
from autopart.search.exchanging import Exchanging
from autopart.search.pipeline import CutSearch

ROUNDING = 1e-9
HALVINGS = 12

Values = NDArray[np.float64]


@dataclass(frozen=True)
class StepBound:
    """What a step does not take less than, of a pipeline whose ranks have one stage each, see `Candidate.least_step_s`.

    With x[s] = f[s] + b[s] for the passes of stage s, c[s] for what is sent behind it, n[s] micro-batches in flight and
    m in all,

        step >= p[0] + .. + p[s-1] + m x[s] + t
        step >= p[0] + .. + p[S-1] + (m - 1) b[s] + (m - n[s]) f[s] + t

    with p = x + 2 c; if the backward pass is split p = f + c, and the second does not hold.

    Attributes:
        search: prices stages.
        in_flight: n, for each stage.
        limit_bytes: what tensors can have of a device.
        micro_batches: m.
        splits_backward: whether the schedule does.
        forward_s: of no unit, the first one, the first two and so on.
        sends_s: c, if the stage ends with this unit; of all units but the last.
        all_s: of both passes of all units, without what is recomputed by choice.
        pace: how many times the seconds of `search`, `forward_s` and `all_s` a pass takes.
        tail_s: t, what comes after the schedule at the least.
        exchanging: where passes are longer than what their units take, how much.
    """

    search: CutSearch
    in_flight: Sequence[float]
    limit_bytes: float
    micro_batches: int
    splits_backward: bool
    forward_s: Values
    sends_s: Values
    all_s: float
    pace: float
    tail_s: float
    exchanging: Exchanging | None = None

    @classmethod
    def of(cls, candidate: Candidate, search: CutSearch, limit_bytes: float, tail_s: float) -> "StepBound | None":
        """That of a candidate's point; None where ranks have several stages or differ, or nothing goes backward."""
        costs, schedule = candidate.table.costs, find_schedule(candidate.schedule)
        if candidate.virtual_stages > 1 or not candidate.one_kind or Kind.BACKWARD not in schedule.kinds:
            return None
        fixed = (NONE,) * len(costs) if candidate.point.recompute == BY_LAYER else candidate.kinds
        return cls(
            search=search,
            in_flight=candidate.in_flight,
            limit_bytes=limit_bytes,
            micro_batches=candidate.micro_batches,
            splits_backward=schedule.splits_backward,
            forward_s=np.array(list(accumulate((cost.forward_s for cost in costs), initial=0.0))),
            sends_s=np.array([*candidate.sends_behind_s(costs[:-1]), 0.0]),
            all_s=sum(cost.forward_s + cost.backward_s + cost.again_s for cost in candidate.table.units(fixed)),
            pace=candidate.pace,
            tail_s=tail_s,
            exchanging=Exchanging(candidate.table, fixed) if candidate.keeping.zero >= 2 else None,
        )

    def least_s(self, above_s: float, within_s: float) -> float:
        """Seconds that no cuts are below, nearly `within_s` if some are within; infinite if none are.

        Args:
            above_s: no cuts are below this.
            within_s: cuts above this do not matter.
        """
        if self._reached(within_s) is None:
            return float("inf")
        for _ in range(HALVINGS):
            middle_s = (above_s + within_s) / 2
            if self._reached(middle_s) is None:
                above_s = middle_s
            else:
                within_s = middle_s
        return above_s

    def chains(self, within_s: float) -> Iterator[tuple[int, ...]]:
        """All cuts for which the bound is within so many seconds.

        Of chains that go on alike from a unit that with the least p[0] + .. + p[s] before is possible if any is.
        """
        reached = self._reached(within_s)
        if reached is None:
            return
        left: list[tuple[int, int, float, tuple[int, ...]]] = [(len(reached) - 1, 0, float("inf"), ())]
        while left:
            stage, column, most_s, behind = left.pop()
            own = reached[stage]
            most = np.minimum(own.most_s[:, column], most_s - own.passing_s[:, column])
            for row in np.flatnonzero(own.before_s <= most * (1 + ROUNDING)).tolist():
                cuts = (own.first + row, *behind)
                if stage == 0:
                    yield behind
                else:
                    left.append((stage - 1, row, float(most[row]), cuts))

    def _reached(self, within_s: float) -> list["_Stage"] | None:
        """The stages of chains with a bound within so many seconds; None if there are none.

        Of chains of the first stages up to the same unit that with the least p[0] + .. + p[s] can be continued if any
        can. The second inequality asks for that of all stages: it is first taken at the least, then at what the best
        chain has, until it has no more than that.
        """
        within_s = (within_s - self.tail_s) * (1 + ROUNDING)
        firsts, tables = self.search.tables(self.in_flight, self.limit_bytes, within_s / self.micro_batches / self.pace)
        begins = [*firsts, len(self.forward_s) - 1]
        passes = [self._passes_s(*own) for own in zip(begins, begins[1:], tables, strict=False)]
        all_s = self.pace * self.all_s
        while True:
            best, found = np.zeros(1), list[_Stage]()
            for (forward_s, busy_s), first, stop, flying in zip(
                passes, firsts, begins[1:], self.in_flight, strict=True
            ):
                own = self._stage(within_s, all_s, first, best, forward_s, busy_s, stop, flying)
                found.append(own)
                if not busy_s.size or not np.isfinite(best := own.reached_s).any():
                    return None
            if self.splits_backward or best[0] <= all_s * (1 + ROUNDING):
                return found
            all_s = float(best[0])

    def _stage(
        self,
        within_s: float,
        all_s: float,
        first: int,
        before_s: Values,
        forward_s: Values,
        busy_s: Values,
        stop: int,
        flying: float,
    ) -> "_Stage":
        """One stage, if all together take at least `all_s`."""
        count = self.micro_batches
        sends_s = self.sends_s[stop - 1 : stop - 1 + busy_s.shape[1]]
        most_s = within_s - count * busy_s
        if self.splits_backward:
            return _Stage(first, before_s, most_s, forward_s + sends_s)
        with np.errstate(invalid="ignore"):  # no time of a stage that cannot be
            turned_s = all_s + (count - 1) * busy_s - (min(count, flying) - 1) * forward_s
        return _Stage(first, before_s, np.where(turned_s <= within_s, most_s, -np.inf), busy_s + 2 * sends_s)

    def _passes_s(self, start: int, stop: int, busy_s: Values) -> tuple[Values, Values]:
        """Seconds of the forward pass and of both, of the stages from `start` on up to `stop` and later units."""
        rows, columns = busy_s.shape
        busy_s = self.pace * busy_s
        if self.exchanging is not None:
            return self.exchanging.prolonged(start, stop, busy_s)
        forward_s = self.forward_s[stop : stop + columns] - self.forward_s[start : start + rows, None]
        return self.pace * forward_s, busy_s


@dataclass(frozen=True)
class _Stage:
    """A stage of chains, for every unit that may be its first (row) and the next stage's (column).

    Attributes:
        first: the unit of the first row.
        before_s: for each row, the least p[0] + .. + p[s-1].
        most_s: what that may be.
        passing_s: p[s].
    """

    first: int
    before_s: Values
    most_s: Values
    passing_s: Values

    @property
    def reached_s(self) -> Values:
        """For each column, the least p[0] + .. + p[s]; infinite where there is none."""
        before_s = self.before_s[:, None]
        return np.asarray(np.where(before_s <= self.most_s, before_s + self.passing_s, np.inf).min(axis=0))
