"""Candidate: one point of the search space, priced."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping, crossing_bytes, parameter_bytes, stage_memory
from autopart.estimate.replicas import Replicas
from autopart.ir.action import Kind, Schedule
from autopart.ir.plan import Memory, StagePlan
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.schedules.makespan import makespan_s
from autopart.schedules.pipeline import Pipeline
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.search.tensor import TensorPlan
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, send_s

Times = tuple[float, ...]
Played = tuple[Schedule, Times, Times, Times, bool, Times | None]
STEADY = 4  # a pipeline is filled long before four micro-batches a stage
# Of a backward pass, where the gradients of weights have a pass of their own: those of a matmul's weight and of its
# input are products of the same size. Activations that are computed again come with the gradients of inputs.


@dataclass(frozen=True)
class Candidate:
    """Degrees, policies and cuts, with the costs of the units at this tp and micro-batch."""

    tp: int
    pp: int
    dp: int
    cp: int
    micro_batch: int
    micro_batches: int
    schedule: str
    virtual_stages: int
    recompute: str
    cuts: tuple[int, ...]
    costs: tuple[UnitCost, ...]
    tensor: TensorPlan
    cluster: Cluster
    keeping: Keeping
    in_flight: tuple[int, ...]

    @cached_property
    def stages(self) -> tuple[tuple[UnitCost, ...], ...]:
        """The units of each stage; a rank has `virtual_stages` of them."""
        bounds = [0, *self.cuts, len(self.costs)]
        return tuple(self.costs[a:b] for a, b in pairwise(bounds))

    @cached_property
    def replicas(self) -> Replicas:
        """The ranks that hold the same parameters."""
        return Replicas(Group(self.dp * self.cp, self.tp), self.cluster, self.keeping)

    @cached_property
    def _paces(self) -> tuple[tuple[float, float], ...]:
        paces = []
        for stage in self.stages:
            forward = sum(cost.forward_s for cost in stage)
            backward = sum(cost.backward_s + self.keeping.recompute.again_s(cost) for cost in stage)
            paces.append(self.replicas.paced(stage, self.pace * forward, self.pace * backward))
        return tuple(paces)

    @property
    def pace(self) -> float:
        """How many times the seconds of a lone device a pass takes on the slowest of all devices."""
        return self.cluster.device.pace(self.tp * self.pp * self.dp * self.cp) / self.cluster.device_speed

    @cached_property
    def forward_s(self) -> tuple[float, ...]:
        """Seconds of each stage's forward pass over one micro-batch."""
        return tuple(forward for forward, _ in self._paces)

    @cached_property
    def backward_s(self) -> tuple[float, ...]:
        """The same of its backward pass, what it computes again included."""
        return tuple(backward for _, backward in self._paces)

    @cached_property
    def sends_s(self) -> tuple[float, ...]:
        """Seconds of the transfer at each cut."""
        return tuple(self._send_s(stage[-1]) for stage in self.stages[:-1])

    def _send_s(self, last: UnitCost) -> float:
        stride = self.tp * self.cp * self.dp
        if self.pp == 1:
            return 0.0
        whole = last.crossing_whole_bytes
        if not self.keeping.stack.scattered_sends or self.tp == 1 or not whole:
            return send_s(last.crossing_bytes, stride, self.cluster)
        shares = last.crossing_bytes - whole + whole / self.tp
        return send_s(shares, stride, self.cluster) + all_gather_s(whole, Group(self.tp), self.cluster)

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """The peak of each rank of the pipeline, over all stages that it has."""
        cuts = [crossing_bytes(stage[-1], self.keeping) for stage in self.stages[:-1]]
        entered, left = (0.0, *(after for _, after in cuts)), (*(before for before, _ in cuts), 0.0)
        entering = tuple(a + b for a, b in zip(entered, left, strict=True))
        if self.virtual_stages == 1:
            return tuple(
                stage_memory(stage, self.in_flight[i], self.keeping, entering[i]) for i, stage in enumerate(self.stages)
            )
        found = []
        for own, passes in zip(self.homes, self.in_flight, strict=True):
            units = [cost for index in own for cost in self.stages[index]]
            received = sum(entering[index] for index in own)
            # What is in flight counts passes through any of a rank's stages: an even share of each.
            found.append(stage_memory(units, passes / len(own), self.keeping, received))
        return tuple(found)

    @cached_property
    def homes(self) -> tuple[tuple[int, ...], ...]:
        """For each rank of the pipeline, the stages that it has."""
        if self.virtual_stages == 1:
            return tuple((rank,) for rank in range(self.pp))
        schedule = find_schedule(self.schedule)(self.pp, self.pp, self.virtual_stages)
        return tuple(tuple(sorted({action.stage for action in actions})) for actions in schedule)

    @property
    def peak_bytes(self) -> int:
        """The peak of the fullest stage."""
        return max(memory.total_bytes for memory in self.memory)

    @cached_property
    def tails_s(self) -> tuple[float, float]:
        """What the schedule leaves out, of the rank that takes longest: sums of gradients over tp, tied stages and
        replicas that nothing hides; and the optimizer, with what the stack does once a step.
        """
        homes: dict[str, int] = {}
        ranks = [[cost for index in own for cost in self.stages[index]] for own in self.homes]
        for units in ranks:
            for target in {target for cost in units for target, _, _ in cost.parameters}:
                homes[target] = homes.get(target, 0) + 1
        longest = (0.0, 0.0)
        device, keeping = self.cluster.device, self.keeping
        bandwidth = device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction
        for own, units in zip(self.homes, ranks, strict=True):
            held, _ = parameter_bytes(units)
            sizes = {target: size for cost in units for target, size, _ in cost.parameters}
            tied = sum(size for target, size in sizes.items() if homes[target] > 1)
            partial = sum(cost.partial_bytes for cost in units)
            forward_s, backward_s = (sum(times[i] for i in own) for times in (self.forward_s, self.backward_s))
            sums_s = self.replicas.step_s(held, forward_s, backward_s)
            ratio = keeping.state.reduced_bytes / keeping.element_bytes
            sums_s += all_reduce_s(partial * ratio, Group(self.tp, 1), self.cluster) if partial else 0.0
            stride = self.tp * self.cp * self.dp
            sums_s += all_reduce_s(tied * ratio, Group(2, stride), self.cluster) if tied else 0.0
            # Of the first micro-batch, gradients are taken as they are: what `UnitCost` has for adding them, the sum
            # and the gradient read and the sum written, falls away.
            element = keeping.element_bytes
            moved = keeping.state.step_bytes - keeping.state.first_bytes
            share = keeping.replicas if keeping.zero >= 1 else 1
            longest = max(longest, (sums_s, moved * held / element / share / bandwidth), key=sum)
        return longest[0], longest[1] + keeping.stack.step_s

    @property
    def tail_s(self) -> float:
        """Seconds of a step after the schedule."""
        return sum(self.tails_s)

    @cached_property
    def estimated_s(self) -> float:
        """Seconds a step by the formula for 1F1B: the slowest stage sets the pace, the others fill and drain."""
        stages = [f + b for f, b in zip(self.forward_s, self.backward_s, strict=True)]
        both = [sum(stages[index] for index in own) for own in self.homes]
        return (self.micro_batches - 1) * max(both) + sum(both) + 2 * sum(self.sends_s) + self.tail_s

    @cached_property
    def least_step_s(self) -> float:
        """Seconds that `step_s` cannot be below, without playing the schedule out; `tail_s` where nothing is known.

        A stage is busy for all micro-batches, after the first has come through the stages before it, and before the
        last has gone back through them. And a stage that has at most k micro-batches in flight has done no more forward
        passes when the gradients of the first arrive: that is after a forward pass of all stages and a backward pass of
        those behind it; what it has left, and then a backward pass of those before it, come after.
        """
        if self.virtual_stages > 1 or find_schedule(self.schedule).kinds != (Kind.FORWARD, Kind.BACKWARD):
            return self.tail_s
        count, least_s, before_s = self.micro_batches, 0.0, 0.0
        once_s = sum(self.forward_s) + sum(self.backward_s) + 2 * sum(self.sends_s)
        for forward_s, backward_s, sent_s, flying in zip(
            self.forward_s, self.backward_s, (*self.sends_s, 0.0), self.in_flight, strict=True
        ):
            left_s = (count - 1) * backward_s + (count - min(count, flying)) * forward_s
            least_s = max(least_s, before_s + count * (forward_s + backward_s), once_s + left_s)
            before_s += forward_s + backward_s + 2 * sent_s
        return least_s + self.tail_s

    @property
    def timeline(self) -> Timeline:
        """The schedule, played out."""
        return simulate(*self._played())

    @cached_property
    def step_s(self) -> float:
        """Seconds a step, the schedule played out."""
        return makespan_s(*self._played()) + self.tail_s

    def _played(self) -> Played:
        """What `simulate` and `makespan_s` take."""
        definition = find_schedule(self.schedule)
        actions = definition(self.pp, self.micro_batches, self.virtual_stages)
        weight_s, backward_s = None, self.backward_s
        if definition.splits_backward:
            weight_s = tuple(sum(cost.weight_s for cost in stage) for stage in self.stages)
            backward_s = tuple(own - weight for own, weight in zip(backward_s, weight_s, strict=True))
        return actions, self.forward_s, backward_s, self.sends_s, self.keeping.stack.blocking_sends, weight_s

    def stage_plans(self, units: Sequence[Unit]) -> tuple[StagePlan, ...]:
        """What a reader is told of each stage."""
        bounds = [0, *self.cuts, len(units)]
        plans = []
        rank_of = {index: rank for rank, own in enumerate(self.homes) for index in own}
        for index, stage in enumerate(self.stages):
            start, stop = bounds[index], bounds[index + 1]
            plans.append(
                StagePlan(
                    start,
                    stop,
                    units[start].name,
                    units[stop - 1].name,
                    sum(unit.loop is not None for unit in units[start:stop]),
                    parameter_bytes(stage)[1],
                    self.forward_s[index],
                    self.backward_s[index],
                    sum(cost.communication_s for cost in stage),
                    self.memory[rank_of[index]],
                    sum(cost.weight_s for cost in stage),
                    self.sends_s[index] if index < len(self.sends_s) else 0.0,
                )
            )
        return tuple(plans)


def rank_peaks(schedule: str, stages: int, micro_batches: int, virtual_stages: int = 1) -> tuple[int, ...]:
    """For each rank of a schedule, the most passes through its stages whose activations are still needed.

    Raises PlanningError for counts that the schedule cannot take. Of a long schedule two short ones are looked at: from
    there on a peak stays, or grows evenly.
    """
    definition = find_schedule(schedule)
    definition.check(stages, micro_batches, virtual_stages)
    if definition.in_flight is not None:
        return definition.in_flight(Pipeline(stages, micro_batches, virtual_stages))
    short = STEADY * stages * virtual_stages + micro_batches % stages
    if micro_batches <= short + stages:
        return _counted_peaks(schedule, stages, micro_batches, virtual_stages)
    counts = (short, short + stages)
    before, after = (_counted_peaks(schedule, stages, count, virtual_stages) for count in counts)
    rounds = (micro_batches - short) // stages
    return tuple(a + (b - a) * rounds for a, b in zip(before, after, strict=True))


def _counted_peaks(schedule: str, stages: int, micro_batches: int, virtual_stages: int) -> tuple[int, ...]:
    definition = find_schedule(schedule)
    last = definition.kinds[-1]
    peaks = []
    for actions in definition(stages, micro_batches, virtual_stages):
        flying = peak = 0
        for action in actions:
            flying += action.kind is Kind.FORWARD
            peak = max(peak, flying)
            flying -= action.kind is last
        peaks.append(peak)
    return tuple(peaks)
