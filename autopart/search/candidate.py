"""Candidate: one point of the search space, priced."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import parameter_bytes, stage_memory
from autopart.ir.plan import Memory, StagePlan
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.search.tensor import TensorPlan
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_reduce_s, send_s

STEADY = 4  # a pipeline is filled long before four micro-batches a stage


@dataclass(frozen=True)
class Candidate:
    """Degrees, policies and cuts, with the costs of the units at this tp and micro-batch."""

    tp: int
    pp: int
    dp: int
    micro_batch: int
    micro_batches: int
    schedule: str
    recompute: str
    cuts: tuple[int, ...]
    costs: tuple[UnitCost, ...]
    tensor: TensorPlan
    cluster: Cluster
    optimizer: str
    in_flight: tuple[int, ...]

    @cached_property
    def stages(self) -> tuple[tuple[UnitCost, ...], ...]:
        """The units of each stage."""
        bounds = [0, *self.cuts, len(self.costs)]
        return tuple(self.costs[a:b] for a, b in pairwise(bounds))

    @cached_property
    def forward_s(self) -> tuple[float, ...]:
        """Seconds of each stage's forward pass over one micro-batch."""
        return tuple(sum(cost.forward_s for cost in stage) for stage in self.stages)

    @cached_property
    def backward_s(self) -> tuple[float, ...]:
        """The same of its backward pass, what it computes again included."""
        again = self.recompute == "full"
        return tuple(
            sum(cost.backward_s + (cost.forward_s if again and cost.input_bytes else 0.0) for cost in stage)
            for stage in self.stages
        )

    @cached_property
    def sends_s(self) -> tuple[float, ...]:
        """Seconds of the transfer at each cut."""
        stride = self.tp * self.dp
        return tuple(send_s(stage[-1].crossing_bytes, stride, self.cluster) for stage in self.stages[:-1])

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """The peak of each stage."""
        entering = (0.0, *(stage[-1].crossing_bytes for stage in self.stages[:-1]))
        return tuple(
            stage_memory(stage, self.in_flight[i], self.recompute, self.optimizer, self.cluster.device, entering[i])
            for i, stage in enumerate(self.stages)
        )

    @property
    def peak_bytes(self) -> int:
        """The peak of the fullest stage."""
        return max(memory.total_bytes for memory in self.memory)

    @cached_property
    def tail_s(self) -> float:
        """What follows the schedule: summing gradients over tp, tied stages and replicas, and the optimizer."""
        homes: dict[str, int] = {}
        for stage in self.stages:
            for target in {target for cost in stage for target, _, _ in cost.parameters}:
                homes[target] = homes.get(target, 0) + 1
        longest = 0.0
        bandwidth = self.cluster.device.memory_bandwidth_bytes_per_s * self.cluster.device.bandwidth_fraction
        for stage in self.stages:
            held, _ = parameter_bytes(stage)
            sizes = {target: size for cost in stage for target, size, _ in cost.parameters}
            tied = sum(size for target, size in sizes.items() if homes[target] > 1)
            partial = sum(cost.partial_bytes for cost in stage)
            seconds = all_reduce_s(held, Group(self.dp, self.tp), self.cluster) if self.dp > 1 else 0.0
            seconds += all_reduce_s(partial, Group(self.tp, 1), self.cluster) if partial else 0.0
            seconds += all_reduce_s(tied, Group(2, self.tp * self.dp), self.cluster) if tied else 0.0
            # AdamW reads 4 tensors and writes 3 of the parameters' size. Of the first micro-batch, gradients are taken
            # as they are: the two reads and the write that `UnitCost` has for adding them fall away.
            longest = max(longest, seconds + (7 - 3) * held / bandwidth)
        return longest

    @cached_property
    def estimated_s(self) -> float:
        """Seconds a step by the formula for 1F1B: the slowest stage sets the pace, the others fill and drain."""
        both = [f + b for f, b in zip(self.forward_s, self.backward_s, strict=True)]
        return (self.micro_batches - 1) * max(both) + sum(both) + 2 * sum(self.sends_s) + self.tail_s

    @cached_property
    def timeline(self) -> Timeline:
        """The schedule, played out."""
        actions = find_schedule(self.schedule)(self.pp, self.micro_batches)
        return simulate(actions, self.forward_s, self.backward_s, self.sends_s)

    @cached_property
    def step_s(self) -> float:
        """Seconds a step, the schedule played out."""
        return self.timeline.step_s + self.tail_s

    def stage_plans(self, units: Sequence[Unit]) -> tuple[StagePlan, ...]:
        """What a reader is told of each stage."""
        bounds = [0, *self.cuts, len(units)]
        plans = []
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
                    self.memory[index],
                )
            )
        return tuple(plans)


def peak_in_flight(schedule: str, stages: int, micro_batches: int) -> tuple[int, ...]:
    """For each stage of a schedule, the most micro-batches between their forward and backward pass.

    Of a long schedule two short ones are looked at: from there on a peak stays, or grows evenly.
    """
    short = STEADY * stages + micro_batches % stages
    if micro_batches <= short + stages:
        return _counted_peaks(schedule, stages, micro_batches)
    before, after = (_counted_peaks(schedule, stages, count) for count in (short, short + stages))
    rounds = (micro_batches - short) // stages
    return tuple(a + (b - a) * rounds for a, b in zip(before, after, strict=True))


def _counted_peaks(schedule: str, stages: int, micro_batches: int) -> tuple[int, ...]:
    peaks = []
    for actions in find_schedule(schedule)(stages, micro_batches):
        flying = peak = 0
        for action in actions:
            flying += 1 if action.kind.value == "F" else -1
            peak = max(peak, flying)
        peaks.append(peak)
    return tuple(peaks)
