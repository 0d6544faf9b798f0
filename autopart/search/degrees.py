"""The search over degrees and policies: every point that the request leaves open, with its best layout and cuts."""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import islice

from autopart.errors import PinError, PlanningError
from autopart.estimate.context import sequence_lengths
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.search.any_cuts import least_of_any_cuts_s
from autopart.search.candidate import Candidate
from autopart.search.fitting import Fitting
from autopart.search.group_bounds import GroupBounds
from autopart.search.infeasible import explain_infeasible
from autopart.search.mixed_pricing import MixedPricing
from autopart.search.placements import check_placements
from autopart.search.point import Point
from autopart.search.point_order import PointOrder
from autopart.search.points import Choices, plain_points
from autopart.search.polish import polished
from autopart.search.pricing import Pricing
from autopart.search.rank_groups import in_every_order
from autopart.search.request import Request, check, divisors
from autopart.search.sequence_parallel import check_sequence
from autopart.search.shortlist import ROUNDING, Shortlist, fastest
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from cost_models.memory import reserve_bytes, usable_bytes

REPLAYED, RUNNERS_UP = 4, 5
POLISHED = 2  # besides the best
MOST_CHAINS = 32  # ways to cut a point, that are all played out
MOST_PROVED = 2000  # steps of the proof, of a few milliseconds
NONE_LEFT = float("inf"), -1


@dataclass(frozen=True)
class Found:
    """The best candidate, those that came close (one for each tp x pp x dp x cp), and how much was looked at.

    Attributes:
        points: how many combinations of degrees, micro-batch, policies and layout the proof is of: all that there are
            but those with several stages a rank that were passed over, see `DegreeSearch.may_gain`.
        evaluated: for how many of them stages were cut; a bound had shown that the others are neither the best nor
            runners-up.
        least_s: none of those whose schedule was not played out takes less than this.
        least_of_any_cuts_s: nor does any of them with one stage a rank, however these are cut.
        least_of_several_s: nor with several, if ranks have as many layers as each other in each.
    """

    best: Candidate
    others: tuple[Candidate, ...]
    points: int
    evaluated: int
    least_s: float
    least_of_any_cuts_s: float
    least_of_several_s: float


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
    _reach_s: float = field(default=float("inf"), init=False)  # what the best with one stage a rank is estimated at
    _passed_over: set[int] = field(default_factory=set, init=False)

    @cached_property
    def pricing(self) -> Pricing:
        """What points cost."""
        kind = Pricing if self.request.mixed is None else MixedPricing
        return kind(self.folded, self.rules, self.axes, self.units, self.request)

    @cached_property
    def points(self) -> list[Point]:
        """All points, in the order in which those of equal time and memory are preferred."""
        lengths = tuple(sorted(sequence_lengths(self.axes)))
        layers = sum(unit.loop is not None for unit in self.units)
        choices = Choices(self.request, len(self.units), layers, self.pricing.shares_work, lengths)
        points, mixed = choices.points(), self.request.mixed
        if self.request.placements:
            layouts = self.pricing.layouts(1)
            check_placements(layouts, sorted({tp for tp, *_ in choices.degrees()}))
            points = [point for point in points if layouts.keeps_placements(point.tp)]
        return points if mixed is None else in_every_order(mixed, points)

    def run(self) -> Found:
        """The best plan. With `request.search_seconds`, looking stops after that time as soon as anything was found.

        Raises:
            PinError: a pin that cannot be met.
            InfeasiblePlanError: nothing fits the memory; the message names the stage and what would fit.
            PlanningError: no way to use so many devices, or to cut so many stages for the schedule.
        """
        found = self._search()
        return found if found is not None else explain_infeasible(self.pricing, self.points, self.again)

    def again(self, request: Request) -> Candidate | None:
        """The best candidate of another request for the same model; None where there is none."""
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
        stop_s = float("inf") if request.search_seconds is None else time.monotonic() + request.search_seconds
        shortlist, found, looked = Shortlist(REPLAYED, RUNNERS_UP), dict[int, Candidate](), set[int]()

        def over() -> bool:
            return shortlist.found and time.monotonic() > stop_s

        def look(number: int) -> None:
            looked.add(number)
            if (candidate := self._fitted(number)) is not None:
                shortlist.add(candidate, number)
                found[number] = candidate

        for bound_s, number in self._order:  # with one stage a rank, up to the best
            if over() or (self.prune and bound_s * (1 - ROUNDING) > shortlist.fastest_s):
                break
            if self._plain[number] == number:
                look(number)
        self._reach_s = shortlist.fastest_s
        for bound_s, number in self._order:  # with several, and what may be among the first
            if over() or (self.prune and shortlist.is_closed(bound_s)):
                break
            wanted = not self.prune or shortlist.may_take(bound_s, self.points[number].degrees)
            if number not in looked and wanted:
                look(number)
        if not shortlist.found:
            return None
        best, least_s = self._proved(fastest(shortlist.first()), found, looked, stop_s)
        best = self._polished(best, shortlist.first())
        best, least_of_any_cuts_s, least_of_several_s = self._with_any_cuts(best)
        others = shortlist.runners_up(best)
        points = len(self.points) - sum(map(self._groups.alike, self._passed_over))
        return Found(best, others, points, self._fitting.evaluated, least_s, least_of_any_cuts_s, least_of_several_s)

    def _polished(self, best: Candidate, others: Sequence[Candidate]) -> Candidate:
        """The best with the best cuts that are found for the step as it is played out, unless cuts are pinned."""
        if self.request.cuts is not None:
            return best
        limit, whole = self._limits

        def recut(candidate: Candidate, cuts: tuple[int, ...]) -> Candidate:
            return self.pricing.recut(candidate, cuts, limit)

        for own in (best, *others[:POLISHED]):
            if own.pp > 1 and self.pricing.played_s(own.point, limit) < best.step_s:
                best = min(best, polished(own, whole, best.step_s, recut), key=lambda one: one.step_s)
        return best

    def _with_any_cuts(self, best: Candidate) -> tuple[Candidate, float, float]:
        """The best with the cuts of any point that give a shorter step, and what no cuts give less than: of one stage a
        rank, and of several.

        Of one stage a rank the cuts are tried that have the least bound, see `StepBound`.
        """
        if self.request.cuts is not None:
            return best, best.step_s, best.step_s
        least_s, several_s = best.step_s, best.step_s
        for bound_s, number in self._by_step:
            if bound_s * (1 + ROUNDING) >= best.step_s:
                break
            candidate = self._fitted(number)
            if candidate is None:
                continue
            if candidate.virtual_stages > 1:
                several_s = min(several_s, bound_s)
                continue
            best, cut_s = self._with_best_cuts(best, candidate, bound_s)
            least_s = min(least_s, cut_s)
        return best, min(least_s, best.step_s), min(several_s, best.step_s)

    def _with_best_cuts(self, best: Candidate, candidate: Candidate, bound_s: float) -> tuple[Candidate, float]:
        """The best, or one of a candidate's point with cuts that give a shorter step; and what no cuts give less than.

        Cuts are played out if few of them may be better by their bound.
        """
        bound = self.pricing.step_bound(candidate, self._limits[0])
        if bound is None:
            return best, max(bound_s, least_of_any_cuts_s(candidate))
        within_s = best.step_s * (1 - 2 * ROUNDING)
        promising = list(islice(bound.chains(within_s), MOST_CHAINS + 1))
        for cuts in promising:
            other = self.pricing.recut(candidate, cuts, self._limits[0])
            if other.least_step_s < best.step_s and other.trains_everywhere:
                best = min(best, other, key=lambda own: own.step_s)
        few = len(promising) <= MOST_CHAINS
        return best, best.step_s if few else bound.least_s(bound_s, within_s)

    def _proved(
        self, best: Candidate, found: Mapping[int, Candidate], looked: Set[int], stop_s: float
    ) -> tuple[Candidate, float]:
        """The best of all when schedules are played out, and what none of those not played out takes less than.

        The estimate has chosen `best`. Of the others, those that may be faster are looked at, the most promising first:
        points that were not `looked` at are cut, then played out, until a bound shows that the rest is slower; or
        `stop_s` is over, or many were looked at.
        """
        made = dict(found)
        bounds = [(own.least_step_s, number) for number, own in found.items() if own is not best]
        heapify(bounds)
        left = (own for own in self._by_step if own[1] not in looked)
        ahead = next(left, NONE_LEFT)
        for _ in range(MOST_PROVED):
            least_s, number = min(bounds[0], ahead) if bounds else ahead
            if least_s * (1 + ROUNDING) >= best.step_s or time.monotonic() > stop_s:
                break
            if (least_s, number) == ahead:
                ahead = next(left, NONE_LEFT)
                if (candidate := self._fitted(number)) is not None:
                    made[number] = candidate
                    heappush(bounds, (candidate.least_step_s, number))
            else:
                heappop(bounds)
                best = min(best, made[number], key=lambda own: own.step_s)
        return best, min(bounds[0], ahead)[0] if bounds else ahead[0]

    def fastest_other(self, accept: Callable[[Point], bool], within_s: float = float("inf")) -> Candidate | None:
        """The fastest that fits among the points that `accept` takes, if it is estimated at no more than `within_s`.

        By the estimate, not by playing schedules out; what was looked at before is not looked at again.
        """
        best: Candidate | None = None
        for bound_s, number in self._order if any(map(accept, self.points)) else ():
            known_s = within_s if best is None else min(within_s, best.estimated_s)
            if bound_s * (1 - ROUNDING) > known_s:
                break
            candidate = self._fitted(number) if accept(self.points[number]) else None
            if candidate is not None and (best is None or candidate.estimated_s < best.estimated_s):
                best = candidate
        return best

    def fitted(self, point: Point) -> Candidate | None:
        """The candidate of a point, if it fits the memory."""
        limit, whole = self._limits
        candidate = self.pricing.candidate(point, limit)
        return candidate if candidate is not None and candidate.fits(whole) else None

    @cached_property
    def _groups(self) -> GroupBounds:
        groups = GroupBounds(self.points, self.pricing, self._limits[0], self.prune)
        groups.expect()
        return groups

    @cached_property
    def _order(self) -> PointOrder:
        return self._groups.by_estimate()

    @cached_property
    def _by_step(self) -> PointOrder:
        return self._groups.by_step()

    @cached_property
    def _fitting(self) -> Fitting:
        limit, pricing = self._limits[0], self.pricing
        repeats = pricing.repeats if self.prune else lambda _: False
        return Fitting(self.points, lambda point: pricing.candidate(point, limit), limit < float("inf"), repeats)

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """What tensors can have of a device, and all that it has."""
        device, own = self.request.cluster.device, self.request.memory_limit_bytes
        return (usable_bytes(device), device.memory_bytes) if own is None else (own - reserve_bytes(device), own)

    @cached_property
    def _plain(self) -> list[int]:
        return plain_points(self.points)

    def may_gain(self, number: int) -> bool:
        """Whether several stages a rank are looked at: where one fits, and would be the best with a bubble like theirs.

        With v stages that is a v-th of it, by the estimate; of which a bound may show it before anything is cut.
        """
        plain, filled = self._plain[number], 1 / self.points[number].virtual_stages
        if plain == number:
            return True
        if self.prune and self.pricing.bound_s(self.points[plain], self._limits[0], filled) > self._reach_s * (
            1 + ROUNDING
        ):
            return False
        candidate = self._fitted(plain)
        if candidate is None:
            return self._reach_s == float("inf")  # where none fits, several may
        return candidate.estimated_s - candidate.fill_s * (1 - filled) <= self._reach_s

    def _fitted(self, number: int) -> Candidate | None:
        if not self.may_gain(number):
            self._passed_over.add(number)
            return None
        candidate = self._fitting.candidate(number)
        if candidate is None or candidate.virtual_stages == 1:  # whose cuts were searched under the limit
            return candidate
        return candidate if candidate.fits(self._limits[1]) else None

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
