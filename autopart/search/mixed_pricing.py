"""MixedPricing: what points cost where the ranks of a pipeline lie on different kinds of nodes."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.schedules.homes import rank_stages
from autopart.search.candidate import Candidate
from autopart.search.layouts import Layouts
from autopart.search.least_step import Totals, totals
from autopart.search.mixed_candidate import MixedCandidate
from autopart.search.mixed_cuts import GroupOfStages, MixedCutSearch
from autopart.search.point import Point
from autopart.search.pricing import UNEVEN, Pricing
from autopart.search.rank_groups import rank_groups
from autopart.search.tensor import TensorPlan
from cost_models.collective import send_s
from cost_models.memory import reserve_bytes, usable_bytes
from cost_models.mixed_cluster import MixedCluster

Layout = tuple[int, int, int, str]
_SECONDS = ("forward_s", "backward_s", "weight_s", "selective_s", "full_s", "again_s")
_BYTES = ("kept_bytes", "crossing_bytes")


@dataclass
class BorrowedLayouts(Layouts):
    """The layouts that were chosen for the prices of other devices, at the prices of these."""

    chosen: Layouts | None = None

    def plan(self, tp: int, micro_batch: int, variant: str) -> TensorPlan:
        """The tensor plan."""
        if self.chosen is None:
            return super().plan(tp, micro_batch, variant)
        return self.chosen.plan(tp, micro_batch, variant)


@dataclass
class GroupPricing(Pricing):
    """The prices of one group of nodes, for the layouts of `whole`."""

    whole: Pricing | None = None

    def layouts(self, cp: int) -> Layouts:
        """The layouts that candidates have at a degree of context parallelism."""
        if cp not in self._layouts:
            own = (self.folded, self.rules, self.axes, self.units, self.request, cp)
            self._layouts[cp] = BorrowedLayouts(*own, chosen=self.whole.layouts(cp) if self.whole else None)
        return self._layouts[cp]

    @property
    def pace(self) -> float:
        """How many times the seconds of a lone device a pass takes on the slowest of all."""
        cluster = self.request.cluster
        return cluster.device.pace(self.request.world) / cluster.device_speed


@dataclass(frozen=True, slots=True, eq=False)
class Least:
    """What units take at the least on any kind of device.

    Attributes:
        totals: of all units, each with the least seconds of every pass, as the slowest device of a kind takes them.
        shares: of each group, how much of a rank of the fastest devices one of its ranks is worth at the most.
    """

    totals: Totals
    shares: tuple[float, ...]


@dataclass
class MixedPricing(Pricing):
    """Of one model for a request with a mixed cluster.

    Bounds take every unit at the least that it takes on any of the devices, paced by them; a rank of slower devices is
    worth as much of a rank of these as it is at the most, for any unit.
    """

    _least: dict[tuple[Layout, str], Least] = field(default_factory=dict)
    _mixed_cuts: dict[tuple[Layout, str, int, tuple[int, ...]], MixedCutSearch] = field(default_factory=dict)
    _groups_of: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def groups(self) -> tuple[GroupPricing, ...]:
        """The prices of each group by itself."""
        requests = (replace(self.request, cluster=own.cluster, mixed=None) for own in self._mixed.groups)
        return tuple(
            GroupPricing(self.folded, self.rules, self.axes, self.units, request, whole=self) for request in requests
        )

    @property
    def _mixed(self) -> MixedCluster:
        if self.request.mixed is None:
            raise ValueError("the request has no mixed cluster")
        return self.request.mixed

    def bound_s(self, point: Point, limit: float = float("inf"), filled: float = 1.0) -> float:
        """Seconds that no candidate of `point` within `limit` bytes of tensors is estimated below, if of its fill this
        share counts.

        The slowest rank sets the pace P, and each other one adds its fill: of a schedule with whole backward passes a
        share 1/v of both passes, with v stages a rank, of others at least that of its forward passes.
        """
        again_s, least = self.again_s(point, limit), self._least_of(point)
        definition, virtual, own = find_schedule(point.schedule), point.virtual_stages, least.totals
        if Kind.BACKWARD not in definition.kinds or again_s == float("inf"):
            return 0.0 if again_s < float("inf") else again_s
        share, fill_s = 1 / virtual, (own.seconds + again_s) / virtual
        if definition.splits_backward:
            share, fill_s = 1.0, own.forward_s / virtual
        pace_s = self._pace_s(point, least, again_s)
        passes_s = max(point.micro_batches * pace_s, (point.micro_batches - filled * share) * pace_s + filled * fill_s)
        sends_s = filled * 2 * (point.pp - 1) * self._least_send_s(point, own)
        return passes_s + sends_s + self._tail_s(point, own)

    def played_s(self, point: Point, limit: float = float("inf")) -> float:
        """Seconds that no candidate of `point` within `limit` takes less than.

        As `LeastStep.played_s`: with whole backward passes m x[s] + x[0] + .. + x[s-1] <= the step S, for the seconds x
        of the stages. Their work is at most w[0] x[0] + w[1] x[1] + .., if a second on stage s is worth w[s] of one on
        the fastest devices. With y[s] = (w[s] - y[s+1] - y[s+2] - ..) / m, or 0 where that is below, the first, added
        up y[s] times each, say that the work is at most S (y[0] + y[1] + ..).
        """
        again_s, least = self.again_s(point, limit), self._least_of(point)
        kinds, count = find_schedule(point.schedule).kinds, point.micro_batches
        if Kind.BACKWARD not in kinds or again_s == float("inf"):
            return 0.0 if again_s < float("inf") else again_s
        step_s = count * self._pace_s(point, least, again_s)
        if point.virtual_stages == 1 and point.zero < 2 and Kind.WEIGHT not in kinds:
            behind = 0.0
            for group in reversed(self._rank_groups(point)):
                behind += max(0.0, (least.shares[group] - behind) / count)
            step_s = max(step_s, (least.totals.seconds + again_s) / behind)
        return step_s + self._tail_s(point, least.totals)

    def again_s(self, point: Point, limit: float) -> float:
        """Seconds that all units together compute again at the least, see `Pricing.again_s`."""
        if limit == float("inf"):
            return 0.0
        own, flying = self._least_of(point).totals, self._in_flight(point).stages
        state, ranks = min(group.keeping(point).copies for group in self.groups) * own.held_bytes, flying[: point.pp]
        limits = [self._memory[group] * limit for group in self._rank_groups(point)]
        if point.virtual_stages > 1:
            limits = [UNEVEN * each for each in limits]
        evenly = (sum(limits) - state) / min(ranks)
        weighted = sum(each / count for each, count in zip(limits, ranks, strict=True)) - state / max(ranks)
        return own.again_s(own.kept_bytes - min(evenly, weighted))

    def _best_cuts(self, point: Point, each: float, limit: float) -> tuple[int, ...] | None:
        stages, flying = point.pp * point.virtual_stages, self._in_flight(point).stages
        return self._cut_search(point).cuts(stages, flying, each)

    def recut(self, candidate: Candidate, cuts: tuple[int, ...], limit: float) -> Candidate:
        """The candidate with other cuts, units at the prices of their new stages, recomputed so that they fit."""
        for each in self._shares(candidate.point, limit):
            found = self._with_cuts(candidate.point, cuts, each, limit)
            if self._is_within(found, limit):
                break
        return found

    def _is_within(self, candidate: Candidate, limit: float) -> bool:
        return candidate.virtual_stages == 1 or candidate.fits(limit)

    def _cut_search(self, point: Point) -> MixedCutSearch:  # type: ignore[override]
        groups = self._stage_groups(point)
        key = (point.layout, point.recompute, point.zero, groups)
        if key not in self._mixed_cuts:
            kinds = self._pinned_kinds(point) or ()
            own = [
                GroupOfStages(group._cut_search(point), group._recomputed(point, kinds), group.pace, memory)
                for group, memory in zip(self.groups, self._memory, strict=True)
            ]
            self._mixed_cuts[key] = MixedCutSearch(own, groups)
        return self._mixed_cuts[key]

    def _with_cuts(self, point: Point, cuts: tuple[int, ...], each: float, limit: float) -> MixedCandidate:
        kinds, flying = self._pinned_kinds(point), self._in_flight(point)
        if kinds is None:
            kinds = self._cut_search(point).kinds(cuts, flying.stages, each)
        plan, groups = self.layouts(point.cp).plan(*point.layout[1:]), self._rank_groups(point)
        own = point, cuts, kinds, flying.ranks, plan
        views = tuple(Candidate(*own, group._stage_costs(point)) for group in self.groups)
        limits = tuple(self._limits[group] for group in groups)
        return MixedCandidate(*own, self._stage_costs(point), self._mixed, groups, views, limits)

    def _rank_groups(self, point: Point) -> tuple[int, ...]:
        key = point.order, point.tp * point.dp * point.cp
        if key not in self._groups_of:
            self._groups_of[key] = rank_groups(self._mixed, point)
        return self._groups_of[key]

    def _stage_groups(self, point: Point) -> tuple[int, ...]:
        groups, homes = self._rank_groups(point), rank_stages(point.schedule, point.pp, point.virtual_stages)
        rank_of = {stage: rank for rank, own in enumerate(homes) for stage in own}
        return tuple(groups[rank_of[stage]] for stage in range(len(rank_of)))

    @cached_property
    def _limits(self) -> tuple[float, ...]:
        """What a device of each group has."""
        own = self.request.memory_limit_bytes
        return tuple(float(x.cluster.device.memory_bytes) if own is None else own for x in self._mixed.groups)

    @cached_property
    def _memory(self) -> tuple[float, ...]:
        """What tensors can have of a device of each group, as a multiple of that of the request's cluster."""
        own = self.request.memory_limit_bytes
        if own == float("inf"):
            return (1.0,) * len(self._mixed.groups)
        devices = [self.request.cluster.device, *(group.cluster.device for group in self._mixed.groups)]
        first, *usable = [usable_bytes(x) if own is None else own - reserve_bytes(x) for x in devices]
        return tuple(each / first if first else 1.0 for each in usable)

    def _least_of(self, point: Point) -> Least:
        key = point.layout, point.recompute
        if key not in self._least:
            kinds = self._pinned_kinds(point)
            every = [
                each_unit(group._recomputed(point, kinds or ()), partial(_paced, pace=group.pace))
                for group in self.groups
            ]
            fastest = [_least_cost(own) for own in zip(*every, strict=True)]
            shares = tuple(_share(own, fastest) for own in every)
            self._least[key] = Least(totals(fastest, self._kinds if kinds is None else ()), shares)
        return self._least[key]

    def _pace_s(self, point: Point, least: Least, again_s: float) -> float:
        """What the slowest rank takes at the least for both passes of a micro-batch: if all are busy, and at least one
        unit.
        """
        ranks = sum(least.shares[group] for group in self._rank_groups(point))
        return max((least.totals.seconds + again_s) / ranks, least.totals.slowest_s)

    def _least_send_s(self, point: Point, own: Totals) -> float:
        """A cut sends at least what crosses the best place, over the fastest of the links."""
        size, stride = own.crossing_bytes, point.tp * point.dp * point.cp
        if self.request.stack.scattered_sends:
            size /= point.tp
        within = [send_s(size, stride, group.request.cluster) for group in self.groups]
        return min(*within, *(self._mixed.send_s(size, one, one) for one in range(len(self.groups))))

    def _tail_s(self, point: Point, own: Totals) -> float:
        """The optimizer's step on a pp-th of the parameters, at the fastest memory, and what is done once a step."""
        devices = [group.request.cluster.device for group in self.groups]
        bandwidth = max(x.memory_bandwidth_bytes_per_s * x.bandwidth_fraction for x in devices)
        keepings = [group.keeping(point) for group in self.groups]
        moved = keepings[0].state.step_bytes - keepings[0].state.first_bytes
        share = max(own.replicas for own in keepings) if point.zero >= 1 else 1
        held = own.held_bytes / point.pp / keepings[0].element_bytes
        return self.request.stack.step_s + moved * held / share / bandwidth


def _paced(cost: UnitCost, pace: float) -> UnitCost:
    return replace(cost, **{name: pace * getattr(cost, name) for name in _SECONDS})


def _least_cost(costs: tuple[UnitCost, ...]) -> UnitCost:
    """The least of each figure of one unit on several devices."""
    return replace(costs[0], **{name: min(getattr(cost, name) for cost in costs) for name in (*_SECONDS, *_BYTES)})


def _share(own: list[UnitCost], fastest: list[UnitCost]) -> float:
    """What a second on these devices is at the most worth on the fastest: in any unit, or computed again."""
    pairs = [
        (least, seconds)
        for fast, slow in zip(fastest, own, strict=True)
        for least, seconds in zip(_spans_s(fast), _spans_s(slow), strict=True)
        if seconds > 0
    ]
    return max((least / seconds for least, seconds in pairs), default=1.0)


def _spans_s(cost: UnitCost) -> tuple[float, float, float]:
    return cost.forward_s + cost.backward_s + cost.again_s, cost.full_s, cost.selective_s
