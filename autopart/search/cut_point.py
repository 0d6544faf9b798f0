"""CutPoint: one point of the search space, cut into stages: what they cost, send and hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping, crossing_bytes
from autopart.estimate.recompute import BY_LAYER, summary
from autopart.ir.prediction import Memory
from autopart.schedules.held_states import States, held_states
from autopart.schedules.homes import rank_stages
from autopart.search.point import Point
from autopart.search.stage_costs import Spans, StageCost, StageCosts
from autopart.search.tensor import TensorPlan
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, send_s
from cost_models.device import Device

Times = tuple[float, ...]
STEADY = 2  # micro-batches a rank fill a pipeline whose ranks have several stages


@dataclass(frozen=True)
class CutPoint:
    """A point and its cuts, each unit recomputed as `kinds` says; `table` has what stages cost there."""

    point: Point
    cuts: tuple[int, ...]
    kinds: tuple[str, ...]
    in_flight: tuple[int, ...]
    tensor: TensorPlan
    table: StageCosts

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
        return summary(self.table.costs, self.kinds) if self.point.recompute == BY_LAYER else self.point.recompute

    @property
    def keeping(self) -> Keeping:
        """How the state of parameters is kept."""
        return self.table.keeping

    @property
    def cluster(self) -> Cluster:
        """What it is to run on."""
        return self.table.replicas.cluster

    @property
    def computing_s(self) -> tuple[Times, Times]:
        """Seconds of each stage's forward and backward pass over one micro-batch, without what replicas exchange."""
        forward_s, backward_s = zip(*[stage.computing_s for stage in self.stages], strict=True)
        return forward_s, backward_s

    @property
    def pace(self) -> float:
        """How many times the seconds of a lone device a pass takes on the slowest of all devices."""
        return self.table.pace

    @cached_property
    def costs(self) -> tuple[UnitCost, ...]:
        """Of the units, as they are recomputed."""
        return self.table.units(self.kinds)

    @cached_property
    def spans(self) -> Spans:
        """The first unit of each stage, and the first behind it."""
        return tuple(pairwise((0, *self.cuts, len(self.table.costs))))

    @cached_property
    def stages(self) -> tuple[StageCost, ...]:
        """What each stage costs; a rank has `virtual_stages` of them."""
        return tuple([self.table.of((span,), self.kinds) for span in self.spans])

    @cached_property
    def ranks(self) -> tuple[StageCost, ...]:
        """What all stages of each rank of the pipeline cost together."""
        if self.virtual_stages == 1:
            return self.stages
        spans = self.spans
        return tuple([self.table.of(tuple([spans[index] for index in own]), self.kinds) for own in self.homes])

    def paced_s(self, seconds: Iterable[float]) -> float:
        """The sum of seconds of all units, each as the slowest of its devices takes them."""
        return self.pace * sum(seconds)

    @cached_property
    def weight_s(self) -> tuple[float, ...]:
        """Seconds of each stage's backward pass for the gradients of its weights, over one micro-batch."""
        return tuple([stage.weight_s for stage in self.stages])

    @cached_property
    def forward_s(self) -> tuple[float, ...]:
        """Seconds of each stage's forward pass over one micro-batch."""
        return tuple([stage.forward_s for stage in self.stages])

    @cached_property
    def backward_s(self) -> tuple[float, ...]:
        """The same of its backward pass, what it computes again included."""
        return tuple([stage.backward_s for stage in self.stages])

    @cached_property
    def _lasts(self) -> tuple[UnitCost, ...]:
        """The unit before each cut."""
        return tuple([self.table.costs[cut - 1] for cut in self.cuts])

    @cached_property
    def sends_s(self) -> tuple[float, ...]:
        """Seconds of the transfer at each cut; none between stages of one rank."""
        places = self.rank_of
        sent = enumerate(self.sends_behind_s(self._lasts))
        return tuple([0.0 if places[index] == places[index + 1] else seconds for index, seconds in sent])

    def sends_behind_s(self, units: Sequence[UnitCost]) -> tuple[float, ...]:
        """Seconds of the transfer to another rank behind each of some units."""
        known: dict[tuple[float, float], float] = {}
        found = []
        for last in units:
            key = last.crossing_bytes, last.crossing_whole_bytes
            if key not in known:
                known[key] = self._send_s(last)
            found.append(known[key])
        return tuple(found)

    def _send_s(self, last: UnitCost) -> float:
        stride = self.tp * self.cp * self.dp
        whole = last.crossing_whole_bytes
        if not self.keeping.stack.scattered_sends or self.tp == 1 or not whole:
            return send_s(last.crossing_bytes, stride, self.cluster)
        shares = last.crossing_bytes - whole + whole / self.tp
        return send_s(shares, stride, self.cluster) + all_gather_s(whole, Group(self.tp), self.cluster)

    @cached_property
    def entering_bytes(self) -> Times:
        """Of each stage, what is received for one micro-batch, and sent if the stack keeps it."""
        cuts = [crossing_bytes(last, self.keeping) for last in self._lasts]
        entered, left = (0.0, *(after for _, after in cuts)), (*(before for before, _ in cuts), 0.0)
        return tuple([a + b for a, b in zip(entered, left, strict=True)])

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """The peak of each rank of the pipeline, over all stages that it has."""
        if self.virtual_stages == 1:
            every = zip(self.stages, self.in_flight, self.entering_bytes, strict=True)
            return tuple([stage.memory(flying, received) for stage, flying, received in every])
        return tuple([self.rank_memory(rank, self.kinds) for rank in range(self.pp)])

    def rank_memory(self, rank: int, kinds: Sequence[str]) -> Memory:
        """The peak of a rank that has several stages, if units are recomputed as `kinds` says."""
        own = self.homes[rank]
        spans, entering = [self.spans[index] for index in own], [self.entering_bytes[index] for index in own]
        stages = [self.table.of((span,), kinds) for span in spans]
        sizes = [stage.kept_bytes + received for stage, received in zip(stages, entering, strict=True)]
        peak, whole = float((self.held[rank] @ sizes).max()), sum(sizes)
        return self.table.of(tuple(spans), kinds).memory(peak / whole if whole else 0.0, sum(entering))

    @property
    def held(self) -> States:
        """For each rank, rows of how many micro-batches its stages hold at once, see `held_states`.

        When all of a rank's stages are in flight, they go on as they do: a longer schedule has the same.
        """
        count = min(self.micro_batches, STEADY * self.pp)
        return held_states(self.schedule, self.pp, count, self.virtual_stages)

    @cached_property
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
    def one_kind(self) -> bool:
        """Whether a unit takes the same wherever the cuts are."""
        return True

    @property
    def fullest(self) -> int:
        """The rank that has the least left of what its device has."""
        return max(range(self.pp), key=lambda rank: self.memory[rank].total_bytes)

    def device_of(self, rank: int) -> Device:
        """What a rank of the pipeline runs on."""
        return self.cluster.device

    def fits(self, limit_bytes: float) -> bool:
        """Whether no device needs more than `limit_bytes`."""
        return self.peak_bytes <= limit_bytes

    @property
    def trains_everywhere(self) -> bool:
        """Whether every rank has parameters: torch has no optimizer without any."""
        return all(any(cost.parameters for cost in rank.units) for rank in self.ranks)
