"""GroupBounds: what no point of a group takes less than, from the least work of its units, before a layout is searched.

As `LeastStep`, which knows the layout.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

from autopart.estimate.least_work import LeastWork
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.search.layouts import variants
from autopart.search.least_step import largest_fill, through
from autopart.search.point import Point
from autopart.search.point_order import Group, PointOrder
from autopart.search.pricing import Pricing

LIKELY = 1.8  # times the least bound
LIKELY_CLOSER = 1.4  # the same of bounds with conversions
Bound = Callable[[LeastWork, Point, float], float]


class GroupBounds:
    """The groups of the points, by cp, tp and micro-batch, and their bounds within `limit` bytes of tensors.

    Without `prune` no bound is used for the order by estimates, and points are told apart that have the same layout.
    """

    def __init__(self, points: Sequence[Point], pricing: Pricing, limit: float, prune: bool = True) -> None:
        self._points, self._pricing, self._limit, self._prune = points, pricing, limit, prune
        self._numbers: dict[Group, list[int]] = {}
        # Of each schedule, micro-batches and stages, the point that shares most: it keeps least of the parameters.
        self._pipelines: dict[Group, dict[tuple[int, int, str, int, str], Point]] = {}
        self._work: dict[Group, LeastWork] = {}
        self._again: dict[Group, list[tuple[Point, float]]] = {}  # of these, those that may fit, and what it takes
        for number, point in enumerate(points):
            group = point.cp, point.tp, point.micro_batch
            self._numbers.setdefault(group, []).append(number)
            pipeline = point.pp, point.micro_batches, point.schedule, point.virtual_stages, point.recompute
            pipelines = self._pipelines.setdefault(group, {})
            if pipeline not in pipelines or pipelines[pipeline].zero < point.zero:
                pipelines[pipeline] = point

    def expect(self) -> None:
        """Have those groups searched together that are likely to be looked at."""
        for cp, _, micro_batch in self._numbers:  # bounds ask for all layouts of a rank alone
            self._pricing.layouts(cp).expect(1, micro_batch)
        bounds = {group: self.estimated_s(group) for group in self._numbers}
        likely: dict[tuple[int, int], list[int]] = {}
        for (cp, tp, micro_batch), bound_s in bounds.items():
            if bound_s <= LIKELY * min(bounds.values()):
                likely.setdefault((cp, tp), []).append(micro_batch)
        for (cp, tp), sizes in likely.items():
            known = {size: self._work[cp, tp, size] for size in sizes if (cp, tp, size) in self._work}
            found = self._pricing.layouts(cp).with_conversions(tp, known) if known else {}
            self._work.update(((cp, tp, size), own) for size, own in found.items())
        groups = [(cp, tp, size) for (cp, tp), sizes in likely.items() for size in sizes]
        closer = {group: max(self.estimated_s(group), self.played_s(group)) for group in groups}
        for (cp, tp, micro_batch), bound_s in closer.items():
            if bound_s <= LIKELY_CLOSER * min(closer.values()):
                self._pricing.layouts(cp).expect(tp, micro_batch)

    def by_estimate(self) -> PointOrder:
        """The points by what they are estimated at; all as one where nothing is left out."""
        if not self._prune:
            return PointOrder(self._numbers, lambda _: 0.0, partial(self._bounds, lambda *_: 0.0))
        return PointOrder(self._numbers, self.estimated_s, partial(self._bounds, self._pricing.bound_s))

    def by_step(self) -> PointOrder:
        """The points by what they take, played out."""
        return PointOrder(self._numbers, self.played_s, partial(self._bounds, self._pricing.played_s))

    def alike(self, number: int) -> int:
        """How many points have the same layout as this one, and are otherwise the same."""
        point = self._points[number]
        if not self._prune:
            return 1
        first_alike = partial(self._pricing.layouts(point.cp).first_alike, point.tp, point.micro_batch)
        own = first_alike(point.variant)
        return sum(first_alike(other) == own for other in variants(self._pricing.request, point.tp))

    def _bounds(self, bound_s: Callable[[Point, float], float], group: Group) -> Iterator[tuple[float, int]]:
        """The bounds of the points of a group, of those that have the same layout only of the first."""
        repeated: dict[str, bool] = {}  # by variant
        for number in self._numbers[group]:
            point = self._points[number]
            if self._prune and point.variant not in repeated:
                repeated[point.variant] = self._pricing.repeats(point)
            if not repeated.get(point.variant):
                yield bound_s(point, self._limit), number

    def estimated_s(self, group: Group) -> float:
        """Seconds that none of its points is estimated below."""
        return self._least_s(group, _estimated_s)

    def played_s(self, group: Group) -> float:
        """Seconds that none of its points takes less than."""
        return self._least_s(group, _played_s)

    def _least_s(self, group: Group, bound_s: Bound) -> float:
        pricing, (cp, tp, micro_batch) = self._pricing, group
        # What sending keys and values hides, and what units take on several kinds of devices, is not known here.
        if pricing.request.mixed is not None or cp > 1:
            return 0.0
        if group not in self._work:
            self._work[group] = pricing.layouts(cp).least_work(tp, micro_batch)
        work = self._work[group]
        if group not in self._again:
            every = [(point, pricing.again_s_alone(point, self._limit)) for point in self._pipelines[group].values()]
            self._again[group] = [(point, again_s) for point, again_s in every if again_s < float("inf")]
        fitting = [bound_s(work, point, work.share * again_s) for point, again_s in self._again[group]]
        least_s = min(fitting, default=float("inf"))
        return self._pace * least_s + pricing.request.stack.step_s

    @cached_property
    def _pace(self) -> float:
        cluster = self._pricing.request.cluster
        return cluster.device.pace(self._pricing.request.world) / cluster.device_speed


def _estimated_s(work: LeastWork, point: Point, again_s: float) -> float:
    """As `LeastStep.estimated_s`; where a backward pass is split, a fill is at least that of the forward pass."""
    definition, virtual = find_schedule(point.schedule), point.virtual_stages
    if Kind.BACKWARD not in definition.kinds:
        return 0.0
    fill_s = work.forward_s / virtual
    if not definition.splits_backward:
        fill_s = definition.fill_s(work.forward_s, work.both_s - work.forward_s, 0.0, virtual)
    share = largest_fill(point.schedule, virtual)
    return (point.micro_batches - share) * _slowest_s(work, point.pp, again_s) + fill_s


def _played_s(work: LeastWork, point: Point, again_s: float) -> float:
    """As `LeastStep.played_s`; of a split backward pass, all may be put off."""
    definition = find_schedule(point.schedule)
    if Kind.BACKWARD not in definition.kinds:
        return 0.0
    passes, _ = through(point.pp * point.virtual_stages, point.micro_batches)
    first_s = work.forward_s if definition.splits_backward else work.both_s + again_s
    return max(point.micro_batches * _slowest_s(work, point.pp, again_s), passes * first_s)


def _slowest_s(work: LeastWork, pp: int, again_s: float) -> float:
    return max((work.both_s + again_s) / pp, work.slowest_s)
