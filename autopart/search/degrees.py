"""The search over degrees and policies: every point that the request leaves open, with its best layout and cuts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from autopart.errors import PinError, PlanningError
from autopart.estimate.context import sequence_lengths
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate
from autopart.search.fitting import Fitting
from autopart.search.infeasible import explain_infeasible
from autopart.search.point import Point
from autopart.search.points import Choices
from autopart.search.pricing import Pricing
from autopart.search.request import Request, check, divisors
from autopart.search.sequence_parallel import check_sequence
from autopart.search.shortlist import ROUNDING, Shortlist, fastest
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from cost_models.memory import reserve_bytes, usable_bytes

REPLAYED, RUNNERS_UP = 12, 5


@dataclass(frozen=True)
class Found:
    """The best candidate, those that came close (one for each tp x pp x dp x cp), and how much was looked at.

    Attributes:
        points: how many combinations of degrees, micro-batch, policies and layout there are.
        evaluated: for how many of them stages were cut; a bound had shown that the others are neither the best nor
            runners-up.
        least_s: none of those whose schedule was not played out takes less than this.
        stopped: the time that the search was given was over before all bounds were looked at.
    """

    best: Candidate
    others: tuple[Candidate, ...]
    points: int
    evaluated: int
    least_s: float
    stopped: bool = False


@dataclass
class DegreeSearch:
    """Searches plans for one model; prices and layouts are shared between candidates.

    `prune=False` looks at every point. It finds the same.
    """

    folded: Folded
    rules: Mapping[str, Rule | None]
    axes: Axes
    units: tuple[Unit, ...]
    request: Request
    prune: bool = True

    @cached_property
    def pricing(self) -> Pricing:
        """What points cost."""
        return Pricing(self.folded, self.rules, self.axes, self.units, self.request)

    @cached_property
    def points(self) -> list[Point]:
        """All points, in the order in which those of equal time and memory are preferred."""
        lengths = tuple(sorted(sequence_lengths(self.axes)))
        return Choices(self.request, len(self.units), self.pricing.shares_work, lengths).points()

    def run(self) -> Found:
        """The best plan. With `request.search_seconds`, looking stops after that time as soon as anything was found.

        Raises:
            PinError: a pin that cannot be met.
            InfeasiblePlanError: nothing fits the memory; the message names the stage and what would fit.
            PlanningError: no way to use so many devices, or to cut so many stages for the schedule.
        """
        found = self._search()
        return found if found is not None else explain_infeasible(self.pricing, self.points, self._again)

    def _again(self, request: Request) -> Candidate | None:
        try:
            found = DegreeSearch(self.folded, self.rules, self.axes, self.units, request)._search()
        except PlanningError:
            return None
        return None if found is None else found.best

    def _search(self) -> Found | None:
        request = self.request
        check(request, len(self.units))
        if request.schedule is not None and request.virtual_stages is not None:
            find_schedule(request.schedule).check(1, 1, request.virtual_stages)
        self._check_tp()
        stop_s = None if request.search_seconds is None else time.monotonic() + request.search_seconds
        points, bounds, fitting = self.points, self._bounds, self._fitting
        shortlist = Shortlist(REPLAYED, RUNNERS_UP)
        least_s = float("inf")
        found: list[Candidate] = []
        stopped = False
        for number in self._order:
            point = points[number]
            stopped = stopped or (stop_s is not None and shortlist.found and time.monotonic() > stop_s)
            if stopped or (self.prune and not shortlist.may_take(bounds[number], point.degrees)):
                least_s = min(least_s, self.pricing.played_s(point))
                continue
            candidate = self._fitted(number)
            if candidate is not None:
                shortlist.add(candidate, number)
                found.append(candidate)
        if not shortlist.found:
            return None
        first = shortlist.first()
        winner, played = fastest(first), {id(own) for own in first}
        least_s = min([least_s, *(own.least_step_s for own in found if id(own) not in played)])
        return Found(winner, shortlist.runners_up(winner), len(points), fitting.evaluated, least_s, stopped)

    def fastest_other(self, accept: Callable[[Point], bool], within_s: float = float("inf")) -> Candidate | None:
        """The fastest that fits among the points that `accept` takes, if it is estimated at no more than `within_s`.

        By the estimate, not by playing schedules out; what was looked at before is not looked at again.
        """
        best: Candidate | None = None
        for number in self._order:
            if not accept(self.points[number]):
                continue
            known_s = within_s if best is None else min(within_s, best.estimated_s)
            if self._bounds[number] * (1 - ROUNDING) > known_s:
                break
            candidate = self._fitted(number)
            if candidate is not None and (best is None or candidate.estimated_s < best.estimated_s):
                best = candidate
        return best

    @cached_property
    def _bounds(self) -> list[float]:
        return [self.pricing.bound_s(point) if self.prune else 0.0 for point in self.points]

    @cached_property
    def _order(self) -> list[int]:
        bounds = self._bounds
        return sorted(range(len(bounds)), key=lambda number: (bounds[number], number))

    @cached_property
    def _fitting(self) -> Fitting:
        limit, _ = self._limits
        return Fitting(self.points, lambda point: self.pricing.candidate(point, limit), limit < float("inf"))

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """What tensors can have of a device, and all that it has."""
        device, own = self.request.cluster.device, self.request.memory_limit_bytes
        return (usable_bytes(device), device.memory_bytes) if own is None else (own - reserve_bytes(device), own)

    def _fitted(self, number: int) -> Candidate | None:
        candidate = self._fitting.candidate(number)
        return candidate if candidate is not None and candidate.peak_bytes <= self._limits[1] else None

    def _check_tp(self) -> None:
        tp, world, pricing = self.request.tp, self.request.world, self.pricing
        if self.request.sequence_parallel:
            degrees = [other for other in ((tp,) if tp else divisors(world)) if other > 1]
            check_sequence(
                {other: pricing.layouts(1).options(other) for other in degrees}, self.folded.graph.nodes, self.axes
            )
        if tp is None or pricing.shares_work(tp):
            return
        possible = [other for other in divisors(world) if other == 1 or pricing.shares_work(other)]
        shown = " and ".join(map(str, sorted(sorted(possible, key=lambda other: abs(other - tp))[:2])))
        raise PinError(f"tp={tp} divides no axis along which work can be shared: nearest are {shown}")
