"""StageCosts: what the stages of a layout cost, computed once for those that are alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping, parameter_bytes, stage_memory
from autopart.estimate.recompute import NONE, recomputed
from autopart.estimate.replicas import Replicas
from autopart.ir.prediction import Memory
from autopart.search.alike import UnitSorts
from cost_models.collective import Group, all_reduce_s

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class StageCost:
    """Of the units of a stage, or of all stages of a rank, for a micro-batch on one of its devices.

    Attributes:
        units: as they are recomputed.
        replicas: the ranks that hold the same parameters.
        pace: how many times the seconds of a lone device a pass takes.
        tied_names: of parameters that several units of the model use.
    """

    units: tuple[UnitCost, ...]
    replicas: Replicas
    pace: float
    tied_names: frozenset[str]
    _memory: dict[tuple[float, float], Memory] = field(default_factory=dict)

    @property
    def computing_s(self) -> tuple[float, float]:
        """Seconds of both passes without what replicas exchange."""
        forward_s = sum([cost.forward_s for cost in self.units])
        backward_s = sum([cost.backward_s + cost.again_s for cost in self.units])
        return self.pace * forward_s, self.pace * backward_s

    @cached_property
    def _passes_s(self) -> tuple[float, float]:
        return self.replicas.paced(self.units, *self.computing_s)

    @property
    def forward_s(self) -> float:
        """Seconds of the forward pass."""
        return self._passes_s[0]

    @property
    def backward_s(self) -> float:
        """The same of the backward pass, what it computes again included."""
        return self._passes_s[1]

    @cached_property
    def weight_s(self) -> float:
        """Of these, for the gradients of weights."""
        return self.pace * sum([cost.weight_s for cost in self.units])

    @cached_property
    def kept_bytes(self) -> float:
        """What is kept for the backward pass."""
        return sum([cost.kept_bytes for cost in self.units])

    @cached_property
    def held(self) -> tuple[float, int]:
        """Bytes of the parameters on one device, and their elements over all tp ranks."""
        return parameter_bytes(self.units)

    @cached_property
    def tied(self) -> dict[str, float]:
        """Bytes of the parameters that units of other stages may use too."""
        if not self.tied_names:
            return {}
        return {name: size for cost in self.units for name, size, _ in cost.parameters if name in self.tied_names}

    @cached_property
    def partial_bytes(self) -> float:
        """Of the parameters whose gradients are summed over tp once a step."""
        return sum([cost.partial_bytes for cost in self.units])

    def memory(self, in_flight: float, entering_bytes: float) -> Memory:
        """The peak, see `stage_memory`."""
        key = in_flight, entering_bytes
        if key not in self._memory:
            self._memory[key] = stage_memory(self.units, in_flight, self.replicas.keeping, entering_bytes)
        return self._memory[key]


class StageCosts:
    """Those of one chain of units under one way of keeping.

    Args:
        costs: of the units, without recomputation.
        replicas: the ranks that hold the same parameters, and how they keep them.
        pace: how many times the seconds of a lone device a pass takes on the slowest of all devices.
        sorts: of the units.
    """

    def __init__(self, costs: Sequence[UnitCost], replicas: Replicas, pace: float, sorts: UnitSorts) -> None:
        self.costs, self.replicas, self.pace, self._sorts = tuple(costs), replicas, pace, sorts
        self._known: dict[tuple[object, ...], StageCost] = {}
        self._again: dict[tuple[int, str], UnitCost] = {}  # by the identity of the unit's cost

    @property
    def keeping(self) -> Keeping:
        """How the state of parameters is kept."""
        return self.replicas.keeping

    def of(self, spans: Spans, kinds: Sequence[str]) -> StageCost:
        """That of the units from `start` up to `stop` of each span, every unit of the chain recomputed as `kinds` says.

        Names of parameters aside it is right for all stages whose units have the same figures.
        """
        key = tuple([(self._sorts.numbers[start:stop], kinds[start:stop]) for start, stop in spans])
        if key not in self._known:
            units = tuple(self._unit(index, kinds[index]) for start, stop in spans for index in range(start, stop))
            self._known[key] = StageCost(units, self.replicas, self.pace, self._sorts.tied)
        return self._known[key]

    def numbers(self, start: int, stop: int) -> tuple[int, ...]:
        """Of the units from `start` up to `stop`, the same for those that cost the same."""
        return self._sorts.numbers[start:stop]

    def units(self, kinds: Sequence[str]) -> tuple[UnitCost, ...]:
        """All units, recomputed as `kinds` says."""
        return tuple(self._unit(index, kind) for index, kind in enumerate(kinds))

    def tail_s(
        self,
        held_bytes: float,
        tied_bytes: float,
        partial_bytes: float,
        forward_s: float,
        backward_s: float,
        *,
        tp: int,
        stride: int,
    ) -> tuple[float, float]:
        """Seconds of a rank once a step: sums of gradients over tp, tied stages and replicas that nothing hides; and
        the optimizer.

        Args:
            held_bytes: of its parameters.
            tied_bytes: of them, those that stages of other ranks use too.
            partial_bytes: of them, those whose gradients are partial sums over tp.
            forward_s: of its forward passes over a micro-batch.
            backward_s: of its backward passes.
            tp: how many ranks share a layer.
            stride: from a rank to that of the next stage.
        """
        cluster, keeping, element = self.replicas.cluster, self.keeping, self.keeping.element_bytes
        bandwidth = cluster.device.memory_bandwidth_bytes_per_s * cluster.device.bandwidth_fraction
        ratio = keeping.state.reduced_bytes / element
        sums_s = self.replicas.step_s(held_bytes, forward_s, backward_s)
        sums_s += all_reduce_s(partial_bytes * ratio, Group(tp, 1), cluster) if partial_bytes else 0.0
        sums_s += all_reduce_s(tied_bytes * ratio, Group(2, stride), cluster) if tied_bytes else 0.0
        # Of the first micro-batch, gradients are taken as they are: what `UnitCost` has for adding them, the sum and
        # the gradient read and the sum written, falls away.
        moved = keeping.state.step_bytes - keeping.state.first_bytes
        share = keeping.replicas if keeping.zero >= 1 else 1
        return sums_s, moved * held_bytes / element / share / bandwidth

    def _unit(self, index: int, kind: str) -> UnitCost:
        cost = self.costs[index]
        if kind == NONE:
            return cost
        key = id(cost), kind
        if key not in self._again:
            self._again[key] = recomputed(cost, kind)
        return self._again[key]
