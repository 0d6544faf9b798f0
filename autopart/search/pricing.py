"""Pricing: what every point of a search costs: bounds from the units alone, then candidates with their best cuts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from autopart.estimate.memory import Keeping
from autopart.estimate.recompute import parse_recompute
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.rank_peaks import rank_peaks
from autopart.search.candidate import Candidate
from autopart.search.layouts import Layouts
from autopart.search.least_step import LeastStep, Totals, totals
from autopart.search.pipeline import CutSearch, Held
from autopart.search.point import Point
from autopart.search.request import Request
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from cost_models.dtype import dtype_bytes
from cost_models.memory import reserve_bytes
from cost_models.precision import State, computed_dtype, state

Layout = tuple[int, int, int, str]
UNEVEN = 1.1  # what a rank may seem to need of its memory, if its stages were alike


@dataclass
class Pricing:
    """Of one model for one request; what points share is computed once."""

    folded: Folded
    rules: Mapping[str, Rule | None]
    axes: Axes
    units: tuple[Unit, ...]
    request: Request
    _layouts: dict[int, Layouts] = field(default_factory=dict)
    _flying: dict[tuple[str, int, int, int], tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=dict)
    _totals: dict[tuple[Layout, str], Totals] = field(default_factory=dict)
    _keepings: dict[tuple[int, int, str], Keeping] = field(default_factory=dict)
    _held: dict[Layout, Held] = field(default_factory=dict)
    _cuts: dict[tuple[Layout, str, int, int], CutSearch] = field(default_factory=dict)

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

    def bound_s(self, point: Point) -> float:
        """Seconds that no candidate of `point` is estimated below."""
        return self._least_step.estimated_s(point, self._total(point), self.keeping(point))

    def played_s(self, point: Point) -> float:
        """Seconds that no candidate of `point` takes less than."""
        return self._least_step.played_s(point, self._total(point), self.keeping(point))

    def may_fit(self, point: Point, limit: float) -> bool:
        """Whether there may be cuts with which all stages fit `limit` bytes of tensors; not looked at closely.

        Rank s, with n[s] micro-batches in flight, needs at least a[s] + n[s] k[s], for its state a and what it keeps
        k. The largest of these is no less than their mean, with any weights: equal ones, or 1/n[s], of which the k sum
        up to that of all units. Where a rank has several stages, n[s] is their mean, and they need not be alike.
        """
        own, (_, flying) = self._total(point), self._in_flight(point)
        state = self.keeping(point).copies * own.held_bytes
        ranks = flying[: point.pp]
        evenly = (state + min(ranks) * own.kept_bytes) / point.pp
        weighted = (state / max(ranks) + own.kept_bytes) / sum(1 / count for count in ranks)
        return max(evenly, weighted) <= limit * (1.0 if point.virtual_stages == 1 else UNEVEN)

    def _in_flight(self, point: Point) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Passes in flight on every rank, and micro-batches of every stage, where those of one rank are alike."""
        pipeline = (point.schedule, point.pp, point.micro_batches, point.virtual_stages)
        if pipeline not in self._flying:
            ranks, virtual = rank_peaks(*pipeline), point.virtual_stages
            self._flying[pipeline] = ranks, tuple(passes / virtual for passes in ranks) * virtual
        return self._flying[pipeline]

    def keeping(self, point: Point) -> Keeping:
        """How its stages keep the state of their parameters."""
        key = point.zero, point.dp * point.cp, point.recompute
        if key not in self._keepings:
            device, stack = self.request.cluster.device, self.request.stack
            zero, replicas, recompute = key
            self._keepings[key] = Keeping(*self._state, zero, replicas, parse_recompute(recompute), device, stack)
        return self._keepings[key]

    def candidate(self, point: Point, limit: float) -> Candidate | None:
        """A point with its best cuts; None where no cuts fit `limit` bytes of tensors."""
        keeping, pp, virtual = self.keeping(point), point.pp, point.virtual_stages
        flying, per_stage = self._in_flight(point)
        if not self.may_fit(point, limit):
            return None
        key = (point.layout, point.recompute, point.zero, keeping.replicas)
        layouts = self.layouts(point.cp)
        costs = layouts.costs(*point.layout[1:])
        if key not in self._cuts:
            if point.layout not in self._held:
                self._held[point.layout] = Held.of(costs)
            self._cuts[key] = CutSearch(costs, keeping, self.request.cuts, self._held[point.layout])
        plan = layouts.plan(*point.layout[1:])
        found: Candidate | None = None
        # The stages of a rank share its memory, unevenly where that fits: it is known when they are cut.
        for share in dict.fromkeys((1, virtual)):
            cuts = self._cuts[key].cuts(pp * virtual, per_stage, limit / share)
            if cuts is not None:
                found = Candidate(point, cuts, costs, plan, self.request.cluster, keeping, flying)
                if virtual == 1 or found.peak_bytes - reserve_bytes(keeping.device) <= limit:
                    break
        return found

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
            costs = self.layouts(point.cp).costs(*point.layout[1:])
            self._totals[key] = totals(costs, parse_recompute(point.recompute))
        return self._totals[key]
