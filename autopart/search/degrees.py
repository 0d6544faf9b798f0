"""The search over degrees: every tp x pp x dp, micro-batch and recomputation, each with its best layout and cuts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import NoReturn

from autopart.errors import InfeasiblePlanError, PinError, PlanningError
from autopart.estimate.memory import Keeping
from autopart.estimate.recompute import parse_recompute
from autopart.ir.action import Kind
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate, rank_peaks
from autopart.search.fitting import Fitting
from autopart.search.layouts import Layouts
from autopart.search.least_step import Totals, least_played_s, least_step_s, totals
from autopart.search.pipeline import search_cuts
from autopart.search.point import Point
from autopart.search.request import RECOMPUTE, Request, check, divisors
from autopart.search.sequence_parallel import check_sequence
from autopart.search.shortlist import Shortlist, fastest
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from cost_models.dtype import dtype_bytes
from cost_models.memory import reserve_bytes, usable_bytes
from cost_models.precision import State, computed_dtype, state

REPLAYED, RUNNERS_UP = 12, 5
DEFAULT_VIRTUAL = "interleaved-1f1b"
DEFAULT_SCHEDULE = "1f1b"  # as fast as GPipe in the same memory or less; others are chosen by a pin


@dataclass(frozen=True)
class Found:
    """The best candidate, those that came close (one for each tp x pp x dp), and how much was looked at.

    Attributes:
        points: how many combinations of degrees, micro-batch, recomputation and layout there are.
        evaluated: for how many of them stages were cut; a bound had shown that the others are neither the best nor
            runners-up.
        least_s: none of those whose schedule was not played out takes less than this.
    """

    best: Candidate
    others: tuple[Candidate, ...]
    points: int
    evaluated: int
    least_s: float


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
    _flying: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)
    _totals: dict[tuple[int, int, str, str], Totals] = field(default_factory=dict)

    @cached_property
    def layouts(self) -> Layouts:
        """The layouts that candidates have."""
        return Layouts(self.folded, self.rules, self.axes, self.units, self.request)

    def run(self) -> Found:
        """The best plan.

        Raises:
            PinError: a pin that cannot be met.
            InfeasiblePlanError: nothing fits the memory; the message names the stage and what would fit.
            PlanningError: no way to use so many devices.
        """
        found = self._search()
        return found if found is not None else self._explain()

    def _search(self) -> Found | None:
        check(self.request, len(self.units))
        self._check_tp()
        device = self.request.cluster.device
        own = self.request.memory_limit_bytes
        limit = usable_bytes(device) if own is None else own - reserve_bytes(device)
        whole = device.memory_bytes if own is None else own
        points = self._points()
        shortlist = Shortlist(REPLAYED, RUNNERS_UP)
        fitting = Fitting(points, lambda point: self._candidate(point, limit), limit < float("inf"))
        bounds = [self._bound_s(point) for point in points] if self.prune else [0.0] * len(points)
        # The formulas are of forward and backward passes: of schedules without the latter they say nothing.
        least_s = float("inf") if Kind.BACKWARD in find_schedule(self._schedule).kinds else 0.0
        found: list[Candidate] = []
        for number in sorted(range(len(points)), key=lambda number: (bounds[number], number)):
            point = points[number]
            if self.prune and not shortlist.may_take(bounds[number], point.degrees):
                least_s = min(least_s, self._least_played_s(point))
                continue
            candidate = fitting.candidate(number)
            if candidate is not None and candidate.peak_bytes <= whole:
                shortlist.add(candidate, number)
                found.append(candidate)
        if not shortlist.found:
            return None
        first = shortlist.first()
        winner, played = fastest(first), {id(own) for own in first}
        least_s = min([least_s, *(own.least_step_s for own in found if id(own) not in played)])
        return Found(winner, shortlist.runners_up(winner), len(points), fitting.evaluated, least_s)

    def _points(self) -> list[Point]:
        """All points, in the order in which those of equal time and memory are preferred."""
        request = self.request
        recomputes = (request.recompute,) if request.recompute else RECOMPUTE
        return [
            Point(tp, pp, dp, micro_batch, share // micro_batch, recompute, variant)
            for tp, pp, dp in self._degrees()
            for share in (request.global_batch // dp,)
            for micro_batch in self.layouts.micro_batches(share)
            for variant in self.layouts.variants(tp)
            for recompute in recomputes
        ]

    def _degrees(self) -> Iterator[tuple[int, int, int]]:
        request = self.request
        for tp in (request.tp,) if request.tp else divisors(request.world):
            if not request.tp and tp > 1 and (tp > request.cluster.devices_per_node or not self.shares_work(tp)):
                continue
            rest = request.world // tp
            virtual, cp = request.virtual_stages or 1, request.cp or 1
            pps = (
                (request.pp,)
                if request.pp
                else ((len(request.cuts) + 1) // virtual,)
                if request.cuts is not None
                else divisors(rest)
            )
            for pp in pps:
                if rest % (pp * cp) or pp * virtual > len(self.units):
                    continue
                dp = rest // pp // cp
                if (request.dp is None or dp == request.dp) and request.global_batch % dp == 0:
                    yield tp, pp, dp

    def _check_tp(self) -> None:
        tp, world = self.request.tp, self.request.world
        if self.request.sequence_parallel:
            degrees = [other for other in ((tp,) if tp else divisors(world)) if other > 1]
            check_sequence(
                {other: self.layouts.options(other) for other in degrees}, self.folded.graph.nodes, self.axes
            )
        if tp is None or self.shares_work(tp):
            return
        possible = [other for other in divisors(world) if other == 1 or self.shares_work(other)]
        shown = " and ".join(map(str, sorted(sorted(possible, key=lambda other: abs(other - tp))[:2])))
        raise PinError(f"tp={tp} divides no axis along which work can be shared: nearest are {shown}")

    def shares_work(self, tp: int) -> bool:
        """Whether any matmul-like node can be divided by `tp` ranks at all."""
        if tp == 1:
            return True
        options = self.layouts.options(tp)
        return any(s.divided and any(x.shard for x in (*s.inputs, *s.outputs)) for own in options.values() for s in own)

    @cached_property
    def _state(self) -> tuple[State, int]:
        """Bytes of the state of a parameter element, and of the element as it is computed with."""
        request, dtype = self.request, self.layouts.prices(1, 1).main_dtype
        own = state(request.precision, dtype, request.optimizer, request.stack)
        return own, dtype_bytes(computed_dtype(request.precision, dtype))

    def _keeping(self, point: Point) -> Keeping:
        request = self.request
        return Keeping(
            *self._state,
            request.zero or 0,
            point.dp * (request.cp or 1),
            parse_recompute(point.recompute),
            request.cluster.device,
            request.stack,
        )

    def _bound_s(self, point: Point) -> float:
        return least_step_s(point, self._total(point), self._keeping(point), self.request)

    def _least_played_s(self, point: Point) -> float:
        kinds = find_schedule(self._schedule).kinds
        in_turn = kinds == (Kind.FORWARD, Kind.BACKWARD) and (self.request.virtual_stages or 1) == 1
        return least_played_s(point, self._total(point), self._keeping(point), self.request, in_turn)

    @property
    def _schedule(self) -> str:
        virtual = self.request.virtual_stages or 1
        return self.request.schedule or (DEFAULT_SCHEDULE if virtual == 1 else DEFAULT_VIRTUAL)

    def _total(self, point: Point) -> Totals:
        key = (point.tp, point.micro_batch, point.variant, point.recompute)
        if key not in self._totals:
            self._totals[key] = totals(self.layouts.costs(*key[:3]), parse_recompute(point.recompute))
        return self._totals[key]

    def _candidate(self, point: Point, limit: float) -> Candidate | None:
        """A point with its best cuts; None where no cuts fit."""
        request, keeping = self.request, self._keeping(point)
        pp, count = point.pp, point.micro_batches
        virtual = request.virtual_stages or 1
        schedule = self._schedule
        costs = self.layouts.costs(point.tp, point.micro_batch, point.variant)
        key = (schedule, pp, count)
        if key not in self._flying:
            self._flying[key] = rank_peaks(schedule, pp, count, virtual)
        flying = self._flying[key]
        # Stages of one rank are taken to share its memory evenly.
        per_stage = [flying[stage % pp] for stage in range(pp * virtual)]
        cuts = search_cuts(costs, pp * virtual, per_stage, limit / virtual, keeping, request.cuts)
        if cuts is None:
            return None
        return Candidate(
            point.tp,
            pp,
            point.dp,
            request.cp or 1,
            point.micro_batch,
            count,
            schedule,
            virtual,
            point.recompute,
            cuts,
            costs,
            self.layouts.plan(point.tp, point.micro_batch, point.variant),
            request.cluster,
            keeping,
            flying,
        )

    def _explain(self) -> NoReturn:
        """Raise the error that says why there is no plan."""
        find_schedule(self.request.schedule or DEFAULT_SCHEDULE)
        request = self.request
        points = self._points()
        if not points:
            named = {
                axis.name: axis.size for axis in self.axes.axes if isinstance(axis.size, int) and "[" not in axis.name
            }
            sizes = ", ".join(f"{name} {size}" for name, size in sorted(named.items()) if size > 1) or "it has none"
            raise PlanningError(
                f"no tp x pp x dp makes world={request.world}: tp must divide an axis (among them {sizes}), pp can be "
                f"at most {len(self.units)}, and dp must divide global_batch={request.global_batch}; try "
                f"world={_nearby(request)}"
            )
        fitting = Fitting(points, lambda point: self._candidate(point, float("inf")), False)
        unlimited = [candidate for number in range(len(points)) if (candidate := fitting.candidate(number)) is not None]
        least = min(unlimited, key=lambda c: c.peak_bytes)
        stage, memory = max(enumerate(least.memory), key=lambda item: item[1].total_bytes)
        device = request.cluster.device
        gib = 2**30
        raise InfeasiblePlanError(
            f"stage {stage} needs {memory.total_bytes / gib:.1f} GiB at the least (parameters "
            f"{memory.parameters_bytes / gib:.1f}, "
            f"gradients {memory.gradients_bytes / gib:.1f}, optimizer {memory.optimizer_bytes / gib:.1f}, activations "
            f"{memory.activations_bytes / gib:.1f}, temporary {memory.temporary_bytes / gib:.1f}, reserve "
            f"{memory.reserve_bytes / gib:.1f}), {device.name} has {device.memory_bytes / gib:.1f}, with tp={least.tp} "
            f"pp={least.pp} "
            f"dp={least.dp} micro_batch={least.micro_batch} recompute={least.recompute!r}: {self._remedies()}"
        )

    def _remedies(self) -> str:
        """Changes that were searched and found to fit."""
        request, gib, found = self.request, 2**30, []
        for name in ("recompute", "micro_batch", "tp", "pp", "dp", "cuts"):
            if getattr(request, name) is not None:
                plan = self._with(_without(request, name))
                if plan is not None:
                    found.append(f"{name}={self._shown(plan.best, name)} ({plan.best.peak_bytes / gib:.1f} GiB)")
        pinned = [name for name in ("tp", "pp", "dp") if getattr(request, name) is not None]
        if len(pinned) > 1 and not found:  # degrees make the world together, so they are changed together
            plan = self._with(replace(request, tp=None, pp=None, dp=None))
            if plan is not None:
                degrees = " ".join(f"{name}={getattr(plan.best, name)}" for name in ("tp", "pp", "dp"))
                found.append(f"{degrees} ({plan.best.peak_bytes / gib:.1f} GiB)")
        free = None in (request.tp, request.pp, request.dp)
        for factor in (2, 4, 8, 16) if free and not found else ():
            larger = replace(request, world=request.world * factor, global_batch=request.global_batch * factor)
            plan = self._with(larger)
            if plan is not None:
                found.append(
                    f"world={larger.world} ({plan.best.peak_bytes / gib:.1f} GiB, global_batch={larger.global_batch})"
                )
                break
        return f"try {' or '.join(found)}" if found else "use more devices, or larger ones"

    def _shown(self, plan: Candidate, pin: str) -> str:
        """What `plan` has for `pin`, as a caller writes it."""
        value = getattr(plan, pin)
        return repr([self.units[index].name for index in value] if pin == "cuts" else value)

    def _with(self, request: Request) -> Found | None:
        try:
            return DegreeSearch(self.folded, self.rules, self.axes, self.units, request)._search()
        except PlanningError:
            return None


def _nearby(request: Request) -> int:
    """The next smaller world that the pins and the batch allow."""
    virtual = request.virtual_stages or 1
    pp = (len(request.cuts) + 1) // virtual if request.cuts is not None else request.pp or 1
    fixed = (request.tp or 1) * pp * (request.cp or 1)
    possible = [
        fixed * dp for dp in divisors(request.global_batch) if fixed * dp < request.world and request.dp in (None, dp)
    ]
    return max(possible, default=fixed * (request.dp or 1))


def _without(request: Request, pin: str) -> Request:
    """The request with one pin taken off; without cuts it keeps the number of stages."""
    values = {item.name: getattr(request, item.name) for item in fields(Request)}
    virtual = request.virtual_stages or 1
    stages = {"pp": (len(request.cuts) + 1) // virtual} if pin == "cuts" and request.cuts is not None else {}
    return Request(**(values | {pin: None} | stages))
