"""all_points: what a request and the software leave open, multiplied out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from autopart.estimate.recompute import BY_LAYER
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.search.layouts import micro_batches, variants
from autopart.search.point import Point
from autopart.search.request import Request, divisors, divisors_up_to

DEFAULT_SCHEDULE, DEFAULT_VIRTUAL = "1f1b", "interleaved-1f1b"


@dataclass(frozen=True)
class Choices:
    """What may be chosen for a request.

    Attributes:
        unit_count: how many pieces the model has.
        layer_count: how many of them are repeated layers.
        shares_work: whether a tp degree divides any work at all.
        lengths: of the sequence, all that cp has to divide.
    """

    request: Request
    unit_count: int
    layer_count: int
    shares_work: Callable[[int], bool]
    lengths: tuple[int, ...]

    def points(self) -> list[Point]:
        """All points, in the order in which those of equal time and memory are preferred."""
        request = self.request
        space = request.stack.space
        kinds = (request.recompute,) if request.recompute else space.recompute
        if not request.recompute and space.recompute_by_layer:
            kinds = (BY_LAYER,)
        return [
            Point(tp, pp, dp, cp, size, share // size, variant, recompute, zero, schedule, virtual)
            for tp, pp, dp, cp in self.degrees()
            for share in (request.global_batch // dp,)
            for size in micro_batches(request, share)
            for variant in variants(request, tp)
            for recompute in kinds
            for zero in self._zero(dp * cp)
            for schedule, virtual in self.pipelines(pp, share // size)
            if request.schedule or zero < 2 or dp * cp == 1 or not _splits(schedule)
        ]

    def degrees(self) -> Iterator[tuple[int, int, int, int]]:
        """Every tp, pp, dp and cp that make the world, and among which the batch can be shared."""
        request, space = self.request, self.request.stack.space
        for tp in (request.tp,) if request.tp else divisors(request.world):
            alone = tp > request.cluster.devices_per_node or not space.tensor_parallel
            if not request.tp and tp > 1 and (alone or not self.shares_work(tp)):
                continue
            rest = request.world // tp
            for pp in (request.pp,) if request.pp else divisors(rest):
                if rest % pp or not self._stage_counts(pp):
                    continue
                for cp in (request.cp,) if request.cp else divisors_up_to(rest // pp, space.most_cp):
                    dp = rest // pp // cp
                    if rest // pp % cp or request.dp not in (None, dp) or request.global_batch % dp:
                        continue
                    if request.cp or (all(length % cp == 0 for length in self.lengths) and (cp == 1 or self.lengths)):
                        yield tp, pp, dp, cp

    def pipelines(self, pp: int, count: int) -> tuple[tuple[str, int], ...]:
        """The schedules and virtual stages for `count` micro-batches on `pp` ranks."""
        return tuple(
            (name, virtual)
            for name, virtual in self._stage_counts(pp)
            if not (find_schedule(name).whole_rounds and count % pp)
        )

    def _zero(self, replicas: int) -> tuple[int, ...]:
        """The ZeRO stages; without replicas all are one."""
        if self.request.zero is not None:
            return (self.request.zero,)
        return self.request.stack.space.zero if replicas > 1 else self.request.stack.space.zero[:1]

    def _stage_counts(self, pp: int) -> tuple[tuple[str, int], ...]:
        return _stage_counts(self.request, pp, self.unit_count, self.layer_count)


def plain_points(points: Sequence[Point]) -> list[int]:
    """For every point, the number of that which has one stage a rank in place of several, and is otherwise the same; or
    its own.
    """
    keys = [
        (*point.degrees, point.micro_batch, point.variant, point.recompute, point.zero, point.order) for point in points
    ]
    plain = {
        key: number
        for number, (key, point) in enumerate(zip(keys, points, strict=True))
        if (point.schedule, point.virtual_stages) == (DEFAULT_SCHEDULE, 1)
    }
    return [
        number if point.virtual_stages == 1 else plain.get(key, number)
        for number, (key, point) in enumerate(zip(keys, points, strict=True))
    ]


@lru_cache
def _splits(schedule: str) -> bool:
    """Whether weights' gradients are put off: they then add up, whole, while ZeRO keeps shares of gradients alone."""
    return Kind.WEIGHT in find_schedule(schedule).kinds


@lru_cache(maxsize=4096)
def _stage_counts(request: Request, pp: int, unit_count: int, layer_count: int) -> tuple[tuple[str, int], ...]:
    """Every schedule, with every number of virtual stages that the model can be cut into evenly.

    That is, the layers come out even, by themselves or with a place each for what stands before and behind them (Llama
    3 has 126 layers for that reason: Grattafiori et al. 2024, section 3.3.2); the least number is taken in any case.
    Stages of many ranks are small, and one layer more in some of them costs more than their number gains.
    """
    space, pinned = request.stack.space, request.virtual_stages
    if request.schedule:
        names: tuple[str, ...] = (request.schedule,)
    elif pp == 1:
        names = (DEFAULT_SCHEDULE,)  # without a pipeline all are the same
    else:
        names = space.schedules or ((DEFAULT_SCHEDULE,) if request.pp or request.cuts else ())
    if pinned and not request.schedule and names and not any(find_schedule(name).takes(pinned) for name in names):
        names = (DEFAULT_VIRTUAL,)
    found = []
    for name in names:
        least, most = find_schedule(name).virtual_stages
        largest = max(least, least if request.cuts is not None else min(space.most_virtual_stages, most or unit_count))
        for virtual in (pinned,) if pinned else range(least, largest + 1):
            stages = pp * virtual
            fits = find_schedule(name).takes(virtual) and stages <= unit_count
            even = layer_count % stages == 0 or (layer_count + 2) % stages == 0
            fits &= even or virtual == least or pinned is not None
            if fits and (request.cuts is None or len(request.cuts) + 1 == stages):
                found.append((name, virtual))
    return tuple(found)
