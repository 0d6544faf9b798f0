"""Pricing: what every point of a search costs: bounds from the units alone, then candidates with their best cuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping
from autopart.estimate.recompute import BY_LAYER, NONE, parse_recompute, recomputed
from autopart.estimate.replicas import Replicas
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.rank_peaks import rank_peaks
from autopart.search.alike import UnitSorts
from autopart.search.candidate import Candidate
from autopart.search.layouts import FAST, Layouts
from autopart.search.least_step import LeastStep, Totals, totals
from autopart.search.mixes import Mixes
from autopart.search.pipeline import CutSearch
from autopart.search.point import Point
from autopart.search.rank_mixes import RankMixes
from autopart.search.request import Request
from autopart.search.stage_costs import StageCosts
from autopart.search.step_bound import StepBound
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from cost_models.collective import Group, ranks_in_node
from cost_models.dtype import dtype_bytes
from cost_models.memory import reserve_bytes
from cost_models.precision import State, computed_dtype, state

Layout = tuple[int, int, int, str]
INFINITE = float("inf")
UNEVEN = 1.1  # what a rank may seem to need of its memory, if its stages were alike


@dataclass(frozen=True, slots=True)
class _InFlight:
    """What a pipeline has in flight.

    Attributes:
        ranks: passes, on every rank.
        stages: micro-batches, of every stage, where those of one rank are alike.
        least, most: of the latter.
        inverse: the sum of one over each rank's.
        crowded: how many times the mean of its stages a rank may have in flight of one stage, at the most.
    """

    ranks: tuple[int, ...]
    stages: tuple[float, ...]
    least: float
    most: float
    inverse: float
    crowded: float

    @classmethod
    def of(cls, ranks: tuple[int, ...], virtual: int) -> "_InFlight":
        each = tuple(passes / virtual for passes in ranks)
        crowded = min(virtual, 2 * len(ranks) / min(each)) if virtual > 1 else 1.0  # two rounds are never in flight
        return cls(ranks, each * virtual, min(each), max(each), sum([1 / count for count in each]), crowded)


@dataclass
class Pricing:
    """Of one model for one request; what points share is computed once."""

    folded: Folded
    rules: Mapping[str, Rule | None]
    axes: Axes
    units: tuple[Unit, ...]
    request: Request
    _layouts: dict[int, Layouts] = field(default_factory=dict)
    _flying: dict[tuple[str, int, int, int], "_InFlight"] = field(default_factory=dict)
    _copied: dict[tuple[int, int, int, int], float] = field(default_factory=dict)
    _totals: dict[tuple[Layout, str], Totals] = field(default_factory=dict)
    _keepings: dict[tuple[int, int], Keeping] = field(default_factory=dict)
    _cuts: dict[tuple[Layout, str, int, int], CutSearch] = field(default_factory=dict)
    _again: dict[tuple[int, str], UnitCost] = field(default_factory=dict)
    _sorts: dict[Layout, UnitSorts] = field(default_factory=dict)
    _stages: dict[tuple[Layout, int, int], StageCosts] = field(default_factory=dict)
    _mixes: dict[tuple[object, ...], RankMixes] = field(default_factory=dict)

    def layouts(self, cp: int) -> Layouts:
        """The layouts that candidates have at a degree of context parallelism."""
        if cp not in self._layouts:
            self._layouts[cp] = Layouts(self.folded, self.rules, self.axes, self.units, self.request, cp)
        return self._layouts[cp]

    def shares_work(self, tp: int) -> bool:
        """Whether any matmul-like node can be divided by `tp` ranks at all."""
        if tp == 1:
            return True
        options = self.layouts(1).options(tp)
        return any(s.divided and any(x.shard for x in (*s.inputs, *s.outputs)) for own in options.values() for s in own)

    def repeats(self, point: Point) -> bool:
        """Whether its layout has come out the same as that of an earlier variant."""
        return self.layouts(point.cp).first_alike(*point.layout[1:]) != point.variant

    def bound_s(self, point: Point, limit: float = float("inf"), filled: float = 1.0) -> float:
        """Seconds that no candidate of `point` within `limit` bytes of tensors is estimated below, if of its fill this
        share counts.
        """
        again_s = self.again_s(point, limit)
        if again_s == float("inf"):
            return again_s
        return self._least_step.estimated_s(point, self._total(point), self.keeping(point), again_s, filled)

    def played_s(self, point: Point, limit: float = float("inf")) -> float:
        """Seconds that no candidate of `point` within `limit` takes less than."""
        again_s = self.again_s(point, limit)
        if again_s == float("inf"):
            return again_s
        flying = max(self._in_flight(point).ranks)
        return self._least_step.played_s(point, self._total(point), self.keeping(point), flying, again_s)

    def again_s(self, point: Point, limit: float) -> float:
        """Seconds that all units together compute again at the least, so that there may be cuts with which all stages
        fit `limit` bytes of tensors; infinite where there are none.

        Rank s, with n[s] micro-batches in flight, needs at least a[s] + n[s] k[s], for its state a and what it keeps
        k. The largest of these is no less than their mean, with any weights: equal ones, or 1/n[s], of which the k sum
        up to that of all units. Where a rank has several stages, n[s] is their mean, and more of them are in flight
        where it pays to compute again.
        """
        return self._again_s(point, self._total(point), limit) if limit < float("inf") else 0.0

    def again_s_alone(self, point: Point, limit: float) -> float:
        """Of what has to be computed again on tp ranks the least seconds that it takes on one: where all is shared
        evenly, each byte there is one of tp on one rank.
        """
        alone = self._total(point._replace(tp=1, variant=FAST))
        return self._again_s(point, alone, limit, point.tp) if limit < float("inf") else 0.0

    def _again_s(self, point: Point, own: Totals, limit: float, ranks: int = 1) -> float:
        """That of units that are shared by so many ranks beyond what `own` says, in the seconds of `own`."""
        flying, state = self._in_flight(point), self._copies(point) * own.held_bytes / ranks
        limit *= 1.0 if point.virtual_stages == 1 else UNEVEN
        evenly = (limit * point.pp - state) / flying.least
        weighted = limit * flying.inverse - state / flying.most
        return own.again_s((own.kept_bytes - ranks * min(evenly, weighted)) / flying.crowded)

    def _copies(self, point: Point) -> float:
        """Bytes of the state of parameters for each byte of them."""
        key = point.tp, point.dp, point.cp, point.zero
        if key not in self._copied:
            self._copied[key] = self.keeping(point).copies
        return self._copied[key]

    def may_fit(self, point: Point, limit: float) -> bool:
        """Whether there may be cuts with which all stages fit `limit` bytes of tensors; not looked at closely."""
        return self.again_s(point, limit) < float("inf")

    def _in_flight(self, point: Point) -> "_InFlight":
        pipeline = (point.schedule, point.pp, point.micro_batches, point.virtual_stages)
        if pipeline not in self._flying:
            self._flying[pipeline] = _InFlight.of(rank_peaks(*pipeline), point.virtual_stages)
        return self._flying[pipeline]

    def keeping(self, point: Point) -> Keeping:
        """How its stages keep the state of their parameters."""
        cluster, stack, sharers = self.request.cluster, self.request.stack, point.dp * point.cp
        if point.zero and stack.shares_in_node:
            sharers = ranks_in_node(Group(sharers, point.tp), cluster)
        key = point.zero, sharers
        if key not in self._keepings:
            self._keepings[key] = Keeping(*self._state, *key, cluster.device, stack)
        return self._keepings[key]

    def candidate(self, point: Point, limit: float) -> Candidate | None:
        """A point with its best cuts, and what is recomputed; None where nothing fits `limit` bytes of tensors."""
        if not self.may_fit(point, limit):
            return None
        found: Candidate | None = None
        for each in self._shares(point, limit):
            cuts = self._best_cuts(point, each, limit)
            if cuts is not None:
                found = self._with_cuts(point, cuts, each, limit)
                if self._is_within(found, limit):
                    break
        return found

    def _best_cuts(self, point: Point, each: float, limit: float) -> tuple[int, ...] | None:
        """The best cuts where each stage may have `each` bytes; None where none fit."""
        again_s, own, flying = self.again_s(point, limit), self._total(point), self._in_flight(point).stages
        least_s = (own.seconds + again_s) / point.pp if point.virtual_stages == 1 and again_s > 0 else 0.0
        return self._cut_search(point).cuts(point.pp * point.virtual_stages, flying, each, least_s)

    def recut(self, candidate: Candidate, cuts: tuple[int, ...], limit: float) -> Candidate:
        """The candidate with other cuts, and what they need to be recomputed to fit `limit` bytes of tensors."""
        if candidate.point.recompute != BY_LAYER:
            return replace(candidate, cuts=cuts)
        for each in self._shares(candidate.point, limit):
            found = self._with_cuts(candidate.point, cuts, each, limit)
            if self._is_within(found, limit):
                break
        return found

    def step_bound(self, candidate: Candidate, limit: float) -> StepBound | None:
        """What the step of a candidate's point is not below, with any cuts, where more is known than `played_s`."""
        point = candidate.point
        tail_s = self._least_step.tail_s(point, self._total(point), candidate.keeping)
        return StepBound.of(candidate, self._cut_search(point), limit, tail_s)

    def _shares(self, point: Point, limit: float) -> tuple[float, ...]:
        """What a stage may have of `limit`, to be tried in turn.

        The stages of a rank share its memory, unevenly where that fits: it is known when they are cut.
        """
        return tuple(limit / share for share in dict.fromkeys((1, point.virtual_stages)))

    def _is_within(self, candidate: Candidate, limit: float) -> bool:
        """Whether its ranks fit; where each has one stage, that was seen to when it was cut."""
        return candidate.virtual_stages == 1 or candidate.peak_bytes - reserve_bytes(candidate.keeping.device) <= limit

    def _with_cuts(self, point: Point, cuts: tuple[int, ...], each: float, limit: float) -> Candidate:
        """A point with cuts, and what has to be recomputed so that each stage fits `each` bytes of tensors, or, where
        ranks have several, all of a rank `limit`.
        """
        kinds, flying = self._pinned_kinds(point), self._in_flight(point)
        chosen, several = kinds is None, point.virtual_stages > 1
        if kinds is None:
            none = (NONE,) * len(self.units)
            kinds = none if several else self._cut_search(point).kinds(cuts, flying.stages, each)
        plan = self.layouts(point.cp).plan(*point.layout[1:])
        found = Candidate(point, cuts, kinds, flying.ranks, plan, self._stage_costs(point))
        return self._rank_mixes(point, limit).with_mixes(found) if chosen and several and limit < INFINITE else found

    def _rank_mixes(self, point: Point, limit: float) -> RankMixes:
        """How layers are recomputed where ranks have several stages."""
        key = point.layout, point.zero, point.dp, point.schedule, point.pp, point.virtual_stages, limit
        if key not in self._mixes:
            whole = limit + reserve_bytes(self.request.cluster.device)
            self._mixes[key] = RankMixes(self._stage_costs(point), whole, self._kinds)
        return self._mixes[key]

    def _stage_costs(self, point: Point) -> StageCosts:
        """What stages cost, that a point shares with others."""
        key = point.layout, point.zero, point.dp
        if key not in self._stages:
            cluster, costs = self.request.cluster, self.layouts(point.cp).costs(*point.layout[1:])
            replicas = Replicas(Group(point.dp * point.cp, point.tp), cluster, self.keeping(point))
            pace = cluster.device.pace(self.request.world) / cluster.device_speed
            self._stages[key] = StageCosts(costs, replicas, pace, self._sorts_of(point))
        return self._stages[key]

    def _sorts_of(self, point: Point) -> UnitSorts:
        if point.layout not in self._sorts:
            self._sorts[point.layout] = UnitSorts.of(self.layouts(point.cp).costs(*point.layout[1:]))
        return self._sorts[point.layout]

    def _cut_search(self, point: Point) -> CutSearch:
        """The tables of cuts that a point shares with others."""
        keeping = self.keeping(point)
        key = (point.layout, point.recompute, point.zero, keeping.replicas)
        if key not in self._cuts:
            kinds = self._pinned_kinds(point)
            costs = self._recomputed(point, kinds or ())
            mixes = Mixes(costs, keeping, self._kinds) if kinds is None else None
            sorts = UnitSorts.of(costs) if kinds else self._sorts_of(point)
            self._cuts[key] = CutSearch(costs, keeping, self.request.cuts, mixes, sorts)
        return self._cuts[key]

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Of recomputation, among which is chosen layer by layer."""
        return self.request.stack.space.recompute

    def _pinned_kinds(self, point: Point) -> tuple[str, ...] | None:
        """Every unit's kind of recomputation, or None where it is chosen layer by layer."""
        if point.recompute == BY_LAYER:
            return None
        return parse_recompute(point.recompute).kinds(self.layouts(point.cp).costs(*point.layout[1:]))

    def _recomputed(self, point: Point, kinds: Sequence[str]) -> tuple[UnitCost, ...]:
        """The costs of the units, each recomputed as `kinds` says; without kinds none is."""
        costs = self.layouts(point.cp).costs(*point.layout[1:])
        if not kinds:
            return costs
        found = []
        for cost, kind in zip(costs, kinds, strict=True):
            key = id(cost), kind  # the layouts hold the costs for as long as this lives
            if key not in self._again:
                self._again[key] = recomputed(cost, kind)
            found.append(self._again[key])
        return tuple(found)

    @cached_property
    def _least_step(self) -> LeastStep:
        return LeastStep(self.request)

    @cached_property
    def _state(self) -> tuple[State, int]:
        """Bytes of the state of a parameter element, and of the element as it is computed with."""
        request, dtype = self.request, self.layouts(1).prices(1, 1).main_dtype
        own = state(request.precision, dtype, request.optimizer, request.stack)
        return own, dtype_bytes(computed_dtype(request.precision, dtype))

    def _total(self, point: Point) -> Totals:
        key = point.layout, point.recompute
        if key not in self._totals:
            kinds = self._pinned_kinds(point)
            if kinds is None:
                self._totals[key] = totals(self._recomputed(point, ()), self._kinds)
            else:
                self._totals[key] = totals(self._recomputed(point, kinds))
        return self._totals[key]
