"""Candidate: one point of the search space, priced."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, pairwise

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping, crossing_bytes, parameter_bytes, stage_memory
from autopart.estimate.recompute import BY_LAYER, summary
from autopart.estimate.replicas import Replicas
from autopart.ir.action import Kind, Schedule
from autopart.ir.plan import Memory, StagePlan
from autopart.ir.units import Unit
from autopart.schedules.find import Definition, find_schedule
from autopart.schedules.held_states import held_states
from autopart.schedules.homes import rank_stages
from autopart.schedules.makespan import makespan_s
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.search.point import Point
from autopart.search.tensor import TensorPlan
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, send_s

Times = tuple[float, ...]
Played = tuple[Schedule, Times, Times, Times, bool, Times | None]
STEADY = 2  # micro-batches a rank fill a pipeline whose ranks have several stages


@dataclass(frozen=True)
class Candidate:
    """A point and its cuts, with the costs of the units there as they are recomputed; `kinds` says how."""

    point: Point
    cuts: tuple[int, ...]
    costs: tuple[UnitCost, ...]
    tensor: TensorPlan
    cluster: Cluster
    keeping: Keeping
    in_flight: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def tp(self) -> int:
        """As the point has it."""
        return self.point.tp

    @property
    def pp(self) -> int:
        """As the point has it."""
        return self.point.pp

    @property
    def dp(self) -> int:
        """As the point has it."""
        return self.point.dp

    @property
    def cp(self) -> int:
        """As the point has it."""
        return self.point.cp

    @property
    def micro_batch(self) -> int:
        """As the point has it."""
        return self.point.micro_batch

    @property
    def micro_batches(self) -> int:
        """As the point has it."""
        return self.point.micro_batches

    @property
    def schedule(self) -> str:
        """As the point has it."""
        return self.point.schedule

    @property
    def virtual_stages(self) -> int:
        """As the point has it."""
        return self.point.virtual_stages

    @property
    def zero(self) -> int:
        """As the point has it."""
        return self.point.zero

    @property
    def recompute(self) -> str:
        """As the point has it, or in a few words what was chosen layer by layer."""
        return summary(self.costs, self.kinds) if self.point.recompute == BY_LAYER else self.point.recompute

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
        times = zip(self.stages, *self.computing_s, strict=True)
        return tuple(self.replicas.paced(stage, forward_s, backward_s) for stage, forward_s, backward_s in times)

    @property
    def computing_s(self) -> tuple[Times, Times]:
        """Seconds of each stage's forward and backward pass over one micro-batch, without what replicas exchange."""
        forward_s = tuple(self.pace * sum(cost.forward_s for cost in stage) for stage in self.stages)
        backward_s = (self.pace * sum(cost.backward_s + cost.again_s for cost in stage) for stage in self.stages)
        return forward_s, tuple(backward_s)

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
        """Seconds of the transfer at each cut; none between stages of one rank."""
        places = self.rank_of
        return tuple(
            0.0 if places[index] == places[index + 1] else self._send_s(stage[-1])
            for index, stage in enumerate(self.stages[:-1])
        )

    def _send_s(self, last: UnitCost) -> float:
        stride = self.tp * self.cp * self.dp
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
        kept = [sum(cost.kept_bytes for cost in stage) for stage in self.stages]
        sizes = [a + b for a, b in zip(kept, entering, strict=True)]
        # When all of a rank's stages are in flight, they go on as they do: a longer schedule has the same peak.
        count = min(self.micro_batches, STEADY * self.pp)
        states = held_states(self.schedule, self.pp, count, self.virtual_stages)
        found = []
        for own, held in zip(self.homes, states, strict=True):
            units = [cost for index in own for cost in self.stages[index]]
            received, whole = sum(entering[index] for index in own), sum(sizes[index] for index in own)
            peak = float((held @ [sizes[index] for index in own]).max())
            found.append(stage_memory(units, peak / whole if whole else 0.0, self.keeping, received))
        return tuple(found)

    @property
    def homes(self) -> tuple[tuple[int, ...], ...]:
        """For each rank of the pipeline, the stages that it has."""
        return rank_stages(self.schedule, self.pp, self.virtual_stages)

    @cached_property
    def rank_of(self) -> tuple[int, ...]:
        """For each stage its rank."""
        found = {index: rank for rank, own in enumerate(self.homes) for index in own}
        return tuple(found[index] for index in range(len(found)))

    @property
    def peak_bytes(self) -> int:
        """The peak of the fullest stage."""
        return max(memory.total_bytes for memory in self.memory)

    @property
    def trains_everywhere(self) -> bool:
        """Whether every rank has parameters: torch has no optimizer without any."""
        return all(any(cost.parameters for index in own for cost in self.stages[index]) for own in self.homes)

    @cached_property
    def tails_s(self) -> tuple[float, float]:
        """What the schedule leaves out, of the rank that takes longest: sums of gradients over tp, tied stages and
        replicas that nothing hides; and the optimizer, with what the stack does once a step.
        """
        ranks = [[cost for index in own for cost in self.stages[index]] for own in self.homes]
        owned = [{target: size for cost in units for target, size, _ in cost.parameters} for units in ranks]
        places = Counter(chain.from_iterable(owned))
        longest = (0.0, 0.0)
        device, keeping = self.cluster.device, self.keeping
        bandwidth = device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction
        for own, units, sizes in zip(self.homes, ranks, owned, strict=True):
            held = sum(sizes.values())
            tied = sum(size for target, size in sizes.items() if places[target] > 1)
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
        sums_s, optimizer_s = self.tails_s
        return sums_s + optimizer_s

    @property
    def _definition(self) -> Definition:
        return find_schedule(self.schedule)

    @cached_property
    def _passes(self) -> tuple[Times, Times, Times]:
        """Seconds of every stage's passes: forward, backward, and of the weights' gradients where they are split."""
        kinds = self._definition.kinds
        nothing = (0.0,) * len(self.stages)
        if Kind.BACKWARD not in kinds:
            return self.forward_s, nothing, nothing
        if Kind.WEIGHT not in kinds:
            return self.forward_s, self.backward_s, nothing
        weight_s = tuple(self.pace * sum(cost.weight_s for cost in stage) for stage in self.stages)
        return self.forward_s, tuple(b - w for b, w in zip(self.backward_s, weight_s, strict=True)), weight_s

    def _of_ranks(self, times_s: Times) -> Times:
        return tuple(sum(times_s[index] for index in own) for own in self.homes)

    @cached_property
    def _blocked_s(self) -> Times:
        """For each rank, the seconds of a micro-batch in which it sends and computes nothing."""
        if not self.keeping.stack.blocking_sends:
            return (0.0,) * self.pp
        sends = (0.0, *self.sends_s, 0.0)  # to both sides: activations to one, gradients to the other
        return self._of_ranks(tuple(a + b for a, b in pairwise(sends)))

    @property
    def estimated_s(self) -> float:
        """Seconds a step: the slowest rank sets the pace, and each other one adds the fill of the schedule."""
        return self._estimate[0]

    @property
    def fill_s(self) -> float:
        """Of these, the fill and what is sent in it."""
        return self._estimate[1]

    @cached_property
    def _estimate(self) -> tuple[float, float]:
        passes = [self._of_ranks(times_s) for times_s in self._passes]
        paces: list[float] = [f + b + w + sent for f, b, w, sent in zip(*passes, self._blocked_s, strict=True)]
        slowest = paces.index(max(paces))
        fills: list[float] = [
            self._definition.fill_s(f, b, w, self.virtual_stages) for f, b, w in zip(*passes, strict=True)
        ]
        fill_s: float = sum(fills) - fills[slowest] + 2 * sum(self.sends_s) / self.virtual_stages
        return self.micro_batches * paces[slowest] + fill_s + self.tail_s, fill_s

    @cached_property
    def least_step_s(self) -> float:
        """Seconds that `step_s` cannot be below, without playing the schedule out.

        A rank is busy for all micro-batches, after the first has come to its first stage and, where the backward pass
        is not split, before the last has gone back from it. And a stage that has at most k micro-batches in flight has
        done no more forward passes when the gradients of the first arrive: that is after a forward pass of all stages
        and a backward pass of those behind it; what it has left, and then a backward pass of those before it, come
        after.
        """
        forward_s, backward_s, weight_s = self._passes
        count, turns_back = self.micro_batches, self._definition.kinds == (Kind.FORWARD, Kind.BACKWARD)
        before_s = [0.0]
        for f, b, sent in zip(forward_s, backward_s, (*self.sends_s, 0.0), strict=True):
            before_s.append(before_s[-1] + (f + b + 2 * sent if turns_back else f + sent))
        busy_s = self._of_ranks(tuple(f + b + w for f, b, w in zip(forward_s, backward_s, weight_s, strict=True)))
        least_s = max(before_s[min(own)] + count * busy for own, busy in zip(self.homes, busy_s, strict=True))
        if turns_back and self.virtual_stages == 1:
            for f, b, flying in zip(forward_s, backward_s, self.in_flight, strict=True):
                least_s = max(least_s, before_s[-1] + (count - 1) * b + (count - min(count, flying)) * f)
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
        actions = self._definition(self.pp, self.micro_batches, self.virtual_stages)
        forward_s, backward_s, weight_s = self._passes
        weights = weight_s if self._definition.splits_backward else None
        if Kind.BACKWARD not in self._definition.kinds:
            backward_s = self.backward_s
        return actions, forward_s, backward_s, self.sends_s, self.keeping.stack.blocking_sends, weights

    def stage_plans(self, units: Sequence[Unit]) -> tuple[StagePlan, ...]:
        """What a reader is told of each stage."""
        bounds = [0, *self.cuts, len(units)]
        plans = []
        for index, stage in enumerate(self.stages):
            start, stop = bounds[index], bounds[index + 1]
            layers = [kind for unit, kind in zip(units[start:stop], self.kinds[start:stop], strict=True) if unit.loop]
            plans.append(
                StagePlan(
                    start,
                    stop,
                    units[start].name,
                    units[stop - 1].name,
                    len(layers),
                    parameter_bytes(stage)[1],
                    self.forward_s[index],
                    self.backward_s[index],
                    sum(cost.communication_s for cost in stage),
                    self.memory[self.rank_of[index]],
                    self.pace * sum(cost.weight_s for cost in stage),
                    self.sends_s[index] if index < len(self.sends_s) else 0.0,
                    tuple((kind, len(list(own))) for kind, own in groupby(layers)),
                )
            )
        return tuple(plans)
