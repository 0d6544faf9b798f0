"""least_step_s: bounds on the time of a step, from the costs of the units alone, before stages are cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping, parameter_bytes
from autopart.estimate.recompute import Recompute
from autopart.search.point import Point
from autopart.search.request import Request
from cost_models.collective import Group, all_reduce_s, send_s


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all units: `seconds` of both passes over a micro-batch with what is computed again, and of the slowest one;
    bytes of their parameters; and the least bytes that cross a cut.
    """

    seconds: float
    slowest_s: float
    held_bytes: float
    crossing_bytes: float


def totals(costs: Sequence[UnitCost], recompute: Recompute) -> Totals:
    """The totals of units."""
    seconds = [cost.forward_s + cost.backward_s + recompute.again_s(cost) for cost in costs]
    crossing = min((cost.crossing_bytes for cost in costs[:-1]), default=0.0)
    return Totals(sum(seconds), max(seconds), parameter_bytes(costs)[0], crossing)


def least_step_s(point: Point, own: Totals, keeping: Keeping, request: Request) -> float:
    """Seconds that no cuts can be below by the formula for 1F1B, `Candidate.estimated_s`: all is dealt out evenly.

    The slowest of pp stages takes at least a pp-th of all units' time, and at least as long as the slowest unit; a cut
    sends at least what crosses the best place.
    """
    stack, cluster = request.stack, request.cluster
    slowest_s = max(own.seconds / point.pp, own.slowest_s)
    step_s = _pace(request) * ((point.micro_batches - 1) * slowest_s + own.seconds)
    if point.pp > 1:
        scattered = point.tp if stack.scattered_sends else 1
        cuts = point.pp * (request.virtual_stages or 1) - 1
        stride = point.tp * (request.cp or 1) * point.dp
        step_s += 2 * cuts * send_s(own.crossing_bytes / scattered, stride, cluster)
    return step_s + _least_tail_s(point, own, keeping, request)


def least_played_s(point: Point, own: Totals, keeping: Keeping, request: Request, in_turn: bool) -> float:
    """Seconds that no cuts can be below when the schedule is played out.

    `in_turn`: a micro-batch passes all stages forward and then backward, each on a rank of its own. Stage s is then
    busy for all m micro-batches after the first has come through the stages before it, and before the last goes back
    through them: m x[s] + x[0] + .. + x[s-1] <= the step, for times x of both passes. Summed up from the first stage
    to the last, all units take at most 1 - (1 - 1/m)^pp of it.
    """
    count = point.micro_batches
    step_s = count * max(own.seconds / point.pp, own.slowest_s)
    if in_turn:
        step_s = max(step_s, own.seconds / (1 - (1 - 1 / count) ** point.pp))
    return _pace(request) * step_s + _least_tail_s(point, own, keeping, request)


def _pace(request: Request) -> float:
    return request.cluster.device.pace(request.world) / request.cluster.device_speed


def _least_tail_s(point: Point, own: Totals, keeping: Keeping, request: Request) -> float:
    """What is done once a step grows with the parameters that a rank holds, and one rank holds at least a pp-th; what
    overlaps with it is taken to hide all that it can.
    """
    cluster, stack = request.cluster, request.stack
    held = own.held_bytes / point.pp / keeping.element_bytes
    tail_s = stack.step_s
    if keeping.zero == 0 and keeping.replicas > 1:
        reduced_s = all_reduce_s(held * keeping.state.reduced_bytes, Group(keeping.replicas, point.tp), cluster)
        tail_s += (1 - stack.reduction_overlap) * reduced_s
    bandwidth = cluster.device.memory_bandwidth_bytes_per_s * cluster.device.bandwidth_fraction
    moved = keeping.state.step_bytes - keeping.state.first_bytes
    share = keeping.replicas if keeping.zero >= 1 else 1
    return tail_s + moved * held / share / bandwidth
