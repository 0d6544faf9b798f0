"""Bounds on the time of a step, from the costs of the units alone, before stages are cut."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.estimate.memory import Keeping, held_bytes, parameter_bytes
from autopart.estimate.recompute import is_repeated
from autopart.estimate.replicas import Exchanged, Replicas
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.search.even_shares import slowest_within_s
from autopart.search.mixes import worthwhile
from autopart.search.point import Point
from autopart.search.request import Request
from cost_models.collective import Group, send_s

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Of all units, for a micro-batch on one rank.

    Attributes:
        forward_s, backward_s: seconds of both passes, the latter with what is computed again in any case.
        weight_s: of the latter, those of weights' gradients.
        slowest_s: of both passes of the slowest unit.
        times_s: of both passes of no unit, the first one, the first two and so on.
        held_bytes: of their parameters.
        units: one of those that are alike in what they hold, and how many there are.
        holding: the same for totals whose units hold the same.
        kept_bytes: from the forward pass to the backward pass.
        crossing_bytes: the least that cross a cut.
        shares: the passes of the units, those that differ, as shares of both: (forward, backward, weight).
        savings: how many of the kept bytes need not be kept, at how many seconds each: (seconds a byte, bytes), the
            cheapest first.
    """

    forward_s: float
    backward_s: float
    weight_s: float
    slowest_s: float
    times_s: tuple[float, ...]
    held_bytes: float
    units: tuple[tuple[UnitCost, int], ...]
    holding: tuple[tuple[float, bool, int], ...]
    kept_bytes: float
    crossing_bytes: float
    shares: tuple[tuple[float, float, float], ...]
    savings: tuple[tuple[float, float], ...] = ()

    def again_s(self, excess_bytes: float) -> float:
        """The least seconds of what is computed again to keep so many bytes less; infinite if it cannot be done."""
        seconds = 0.0
        for each_s, most in self.savings:
            if excess_bytes <= 0:
                break
            seconds += each_s * min(excess_bytes, most)
            excess_bytes -= most
        return seconds if excess_bytes <= ROUNDING * self.kept_bytes else float("inf")

    @property
    def seconds(self) -> float:
        """Of both passes."""
        return self.forward_s + self.backward_s


def totals(costs: Sequence[UnitCost], kinds: Sequence[str] = ()) -> Totals:
    """The totals of units, that can be recomputed in one of the `kinds` where they do not fit otherwise."""
    times = [(cost.forward_s, cost.backward_s + cost.again_s, cost.weight_s) for cost in costs]
    savings: dict[float, float] = {}
    slower: dict[tuple[float, float, float], None] = {}
    for changes in each_unit(costs, lambda cost: _changes(cost, kinds)) if kinds else ():
        for each_s, saved, then in changes:
            savings[each_s] = savings.get(each_s, 0.0) + saved
            slower[then] = None
    holding = each_unit(costs, lambda cost: (held_bytes(cost), is_repeated(cost)))
    first, counts = dict(zip(reversed(holding), reversed(costs), strict=True)), Counter(holding)
    both = [(own, own[0] + own[1]) for own in times]
    passes = {**dict.fromkeys(times), **slower}
    return Totals(
        sum(own[0] for own in times),
        sum(own[1] for own in times),
        sum(own[2] for own in times),
        max(seconds for _, seconds in both),
        tuple(accumulate((seconds for _, seconds in both), initial=0.0)),
        parameter_bytes(costs)[0],
        tuple((first[own], count) for own, count in counts.items()),
        tuple((*own, count) for own, count in counts.items()),
        sum(cost.kept_bytes for cost in costs),
        min((cost.crossing_bytes for cost in costs[:-1]), default=0.0),
        tuple(dict.fromkeys((f / (f + b), b / (f + b), w / (f + b)) for f, b, w in passes if f + b > 0)),
        tuple(sorted(savings.items())),
    )


def _changes(cost: UnitCost, kinds: Sequence[str]) -> list[tuple[float, float, tuple[float, float, float]]]:
    """What recomputing more and more of a unit changes: seconds a byte, bytes, and the passes that it then has."""
    found, saved, again_s = [], 0.0, 0.0
    for step in worthwhile(cost, kinds):
        passes = cost.forward_s, cost.backward_s + step.again_s, cost.weight_s
        found.append(((step.again_s - again_s) / (step.saved - saved), step.saved - saved, passes))
        saved, again_s = step.saved, step.again_s
    return found


@dataclass
class LeastStep:
    """What no cuts can be below, for the points of a request; parts that points share are computed once."""

    request: Request
    _fills: dict[tuple[Totals, str, int, bool, float], tuple[float, float]] = field(default_factory=dict)
    _slowest: dict[tuple[Totals, int], float] = field(default_factory=dict)
    _tails: dict[tuple[int, int, int, int, float], float] = field(default_factory=dict)
    _sharing: dict[tuple[int, int, int], Replicas] = field(default_factory=dict)
    _exchanged: dict[tuple[tuple[tuple[float, bool, int], ...], int, int, int], Exchanged] = field(default_factory=dict)
    _sends: dict[tuple[int, int, float], float] = field(default_factory=dict)

    def estimated_s(
        self, point: Point, own: Totals, keeping: Keeping, again_s: float = 0.0, filled: float = 1.0
    ) -> float:
        """Seconds by the formula of `Candidate.estimated_s`, with all dealt out evenly; `again_s` are recomputed, and
        the fill counts as this share of it.

        The slowest of pp ranks takes at least a pp-th of all units' time, and as long as whole units allow; the fill of
        all ranks is at least that of their sum, since it is convex; of the slowest, which has none, it is at most the
        largest share that any unit has; and a cut sends at least what crosses the best place.
        """
        slowest_s = max(self._busy_s(point, own, keeping, again_s), self._slowest_s(point, own))
        share, fill_s = self._fill(point, own, keeping.zero >= 2, again_s)
        step_s = self._pace * ((point.micro_batches - filled * share) * slowest_s + filled * fill_s)
        if point.pp > 1:
            cuts = point.pp * point.virtual_stages - 1
            step_s += filled * 2 * cuts / point.virtual_stages * self._send_s(point, own, keeping)
        return step_s + self.tail_s(point, own, keeping)

    def played_s(self, point: Point, own: Totals, keeping: Keeping, flying: int, again_s: float = 0.0) -> float:
        """Seconds when the schedule is played out; `again_s` are recomputed, and at most `flying` micro-batches are in
        flight on a rank with one stage. Sharing parameters only makes passes longer.

        - The slowest rank is busy for all m micro-batches.
        - Stage s, with times x[s] of both passes but for what is put off of the backward one, does m of each after the
          first micro-batch has come through the stages before it, and the last one goes back through them:
          x[0] + .. + x[s-1] + m x[s] <= the step, see `through`.
        - Where work is put off, a rank is busy with it too after it has waited for a forward pass of those before it.
        - A stage with n in flight has done n forward passes when the first gradients arrive, see
          `least_of_any_cuts_s`: of all stages' time once, m - 1 backward passes and m - n forward passes come besides.
        """
        count, definition, stages = point.micro_batches, find_schedule(point.schedule), point.pp * point.virtual_stages
        if Kind.BACKWARD not in definition.kinds:
            return 0.0
        all_s = own.seconds + again_s
        slowest_s = max(self._busy_s(point, own, keeping, again_s), self._slowest_s(point, own))
        put_off_s = own.weight_s if definition.splits_backward else 0.0
        passes, sends = through(stages, count)
        sends = max(0.0, sends - passes * (point.virtual_stages - 1))  # a rank may send some of them to itself
        step_s = max(
            count * slowest_s,
            (all_s - put_off_s) * passes + 2 * sends * self._send_s(point, own, keeping) / self._pace,
        )
        if point.virtual_stages == 1:
            if definition.splits_backward:
                waited = min((share[0] for share in own.shares), default=0.0)
                if waited > 0:
                    step_s = max(step_s, all_s * waited / (1 - (1 - waited / count) ** point.pp))
            else:
                forward = max((share[0] for share in own.shares), default=1.0)
                besides = (count - 1) - (min(count, flying) - 1) * forward
                step_s = max(step_s, all_s + max(0.0, besides) * slowest_s)
        return self._pace * step_s + self.tail_s(point, own, keeping)

    @cached_property
    def _pace(self) -> float:
        return self.request.cluster.device.pace(self.request.world) / self.request.cluster.device_speed

    def _busy_s(self, point: Point, own: Totals, keeping: Keeping, again_s: float) -> float:
        """Seconds of both passes of a rank, with what replicas exchange in them, in the mean over all ranks."""
        if keeping.zero < 2:
            return (own.seconds + again_s) / point.pp
        forward_s, backward_s = self._pace * own.forward_s, self._pace * (own.backward_s + again_s)
        replicas, stages = self._replicas(point, keeping), point.pp * point.virtual_stages
        key = own.holding, point.tp, point.dp * point.cp, keeping.zero
        if key not in self._exchanged:
            self._exchanged[key] = replicas.least_exchanged(own.units, own.held_bytes)
        return replicas.least_passes_s(self._exchanged[key], stages, forward_s, backward_s) / self._pace / point.pp

    def _replicas(self, point: Point, keeping: Keeping) -> Replicas:
        key = point.tp, point.dp * point.cp, keeping.zero
        if key not in self._sharing:
            self._sharing[key] = Replicas(Group(point.dp * point.cp, point.tp), self.request.cluster, keeping)
        return self._sharing[key]

    def _slowest_s(self, point: Point, own: Totals) -> float:
        """Seconds of the slowest rank at the least: with one stage each, as whole units can be dealt out."""
        if point.virtual_stages > 1:
            return own.slowest_s
        key = own, point.pp
        if key not in self._slowest:
            self._slowest[key] = slowest_within_s(own.times_s, point.pp)[0]
        return self._slowest[key]

    def _fill(self, point: Point, own: Totals, shared: bool, again_s: float) -> tuple[float, float]:
        """The largest share of its work that any unit's fill has (or any passes', where sharing changes them), and the
        fill of all.
        """
        key = own, point.schedule, point.virtual_stages, shared, again_s
        if key not in self._fills:
            definition, virtual = find_schedule(point.schedule), point.virtual_stages
            split = definition.splits_backward

            def fill_s(forward_s: float, backward_s: float, weight_s: float) -> float:
                apart = weight_s if split else 0.0
                return definition.fill_s(forward_s, backward_s - apart, apart, virtual)

            most = largest_fill(point.schedule, virtual)
            share = most if shared else max((fill_s(*unit) for unit in own.shares), default=most)
            self._fills[key] = share, fill_s(own.forward_s, own.backward_s + again_s, own.weight_s)
        return self._fills[key]

    def _send_s(self, point: Point, own: Totals, keeping: Keeping) -> float:
        size = own.crossing_bytes / (point.tp if keeping.stack.scattered_sends else 1)
        key = point.tp, point.pp, size
        if key not in self._sends:
            self._sends[key] = send_s(size, self.request.world // point.pp, self.request.cluster)
        return self._sends[key]

    def tail_s(self, point: Point, own: Totals, keeping: Keeping) -> float:
        """What is done once a step grows with the parameters that a rank holds, and one rank holds at least a pp-th;
        what overlaps with it is taken to hide all that it can.
        """
        held = own.held_bytes / point.pp / keeping.element_bytes
        key = point.tp, point.pp, keeping.zero, point.dp * point.cp, held
        if key not in self._tails:
            cluster, stack = self.request.cluster, self.request.stack
            tail_s = stack.step_s + self._replicas(point, keeping).least_step_s(held * keeping.element_bytes)
            bandwidth = cluster.device.memory_bandwidth_bytes_per_s * cluster.device.bandwidth_fraction
            moved = keeping.state.step_bytes - keeping.state.first_bytes
            share = keeping.replicas if keeping.zero >= 1 else 1
            self._tails[key] = tail_s + moved * held / share / bandwidth
        return self._tails[key]


@lru_cache(maxsize=4096)
def through(stages: int, count: int) -> tuple[float, float]:
    """How many times all stages' time a step takes at the least, and how many sends each way, by stage after stage.

    Of x[0] + .. + x[s-1] + m x[s] <= step for every s, with sends c between, the mean with weights by which every x has
    the same factor C is C (x[0] + .. + x[S-1]) + C c (S - 1 - (q + .. + q^(S-1))) <= step, where q = 1 - 1/m and
    C = 1 / (1 - q^S).
    """
    q = 1 - 1 / count
    passes = 1 / (1 - q**stages)
    return passes, passes * (stages - 1 - sum(q**k for k in range(1, stages)))


@lru_cache(maxsize=256)
def largest_fill(schedule: str, virtual: int) -> float:
    """The largest share of a rank's passes that its fill can be: convex, it is largest where one of them is all."""
    fill_s = find_schedule(schedule).fill_s
    return max(fill_s(1.0, 0.0, 0.0, virtual), fill_s(0.0, 1.0, 0.0, virtual), fill_s(0.0, 0.0, 1.0, virtual))
