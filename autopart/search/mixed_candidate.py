"""MixedCandidate: a candidate whose ranks lie on different kinds of nodes, each stage at the prices of its own."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from autopart.estimate.block import UnitCost
from autopart.ir.prediction import Memory
from autopart.search.candidate import Candidate
from autopart.search.mixed_cuts import unit_groups
from cost_models.collective import Group, all_gather_s, all_reduce_s
from cost_models.device import Device
from cost_models.mixed_cluster import MixedCluster


@dataclass(frozen=True)
class MixedCandidate(Candidate):
    """`table` has what all kinds of nodes have in common: bytes.

    Attributes:
        mixed: the cluster.
        groups: of every rank the number of its group.
        views: for each group the candidate as if all ranks were on its nodes: right for the ranks that are.
        limits_bytes: of every rank what its device has.
    """

    mixed: MixedCluster
    groups: tuple[int, ...]
    views: tuple[Candidate, ...]
    limits_bytes: tuple[float, ...]

    @property
    def one_kind(self) -> bool:
        """No: what a unit takes depends on its stage."""
        return False

    @cached_property
    def costs(self) -> tuple[UnitCost, ...]:
        """Of the units, each on the nodes that its stage is on."""
        places = unit_groups(self._stage_groups, self.cuts, len(self.kinds))
        return tuple(self.views[group].costs[unit] for unit, group in enumerate(places))

    @cached_property
    def _stage_groups(self) -> tuple[int, ...]:
        return tuple(self.groups[rank] for rank in self.rank_of)

    def paced_s(self, seconds: Iterable[float]) -> float:
        """The sum of seconds of all units, each as the slowest of its devices takes them."""
        places = unit_groups(self._stage_groups, self.cuts, len(self.kinds))
        return sum(self.views[group].pace * own for group, own in zip(places, seconds, strict=True))

    @cached_property
    def forward_s(self) -> tuple[float, ...]:
        """Seconds of each stage's forward pass over one micro-batch."""
        return tuple(self.views[group].forward_s[stage] for stage, group in enumerate(self._stage_groups))

    @cached_property
    def backward_s(self) -> tuple[float, ...]:
        """The same of its backward pass, what it computes again included."""
        return tuple(self.views[group].backward_s[stage] for stage, group in enumerate(self._stage_groups))

    @property
    def computing_s(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Seconds of both passes without what replicas exchange."""
        views = [self.views[group].computing_s for group in self._stage_groups]
        forward_s, backward_s = (tuple(own[i][stage] for stage, own in enumerate(views)) for i in (0, 1))
        return forward_s, backward_s

    @cached_property
    def weight_s(self) -> tuple[float, ...]:
        """Of these, the gradients of its weights."""
        return tuple(self.views[group].weight_s[stage] for stage, group in enumerate(self._stage_groups))

    @cached_property
    def sends_s(self) -> tuple[float, ...]:
        """Seconds of the transfer at each cut: between groups over what connects them."""
        found = []
        for stage, (one, other) in enumerate(zip(self._stage_groups, self._stage_groups[1:], strict=False)):
            found.append(self.views[one].sends_s[stage] if one == other else self._crossing_s(stage, one, other))
        return tuple(found)

    def _crossing_s(self, stage: int, one: int, other: int) -> float:
        last = self.table.costs[self.cuts[stage] - 1]
        whole = last.crossing_whole_bytes
        if not self.keeping.stack.scattered_sends or self.tp == 1 or not whole:
            return self.mixed.send_s(last.crossing_bytes, one, other)
        shares = last.crossing_bytes - whole + whole / self.tp
        gathered_s = max(all_gather_s(whole, Group(self.tp), self.views[end].cluster) for end in (one, other))
        return self.mixed.send_s(shares, one, other) + gathered_s

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """The peak of each rank of the pipeline, over all stages that it has."""
        return tuple(self.views[group].memory[rank] for rank, group in enumerate(self.groups))

    @cached_property
    def rank_tails_s(self) -> tuple[tuple[float, float], ...]:
        """Of each rank: sums of gradients that nothing hides, those of tied stages over what connects them; and the
        optimizer.
        """
        across, stride = self._tied_across, self.tp * self.cp * self.dp
        ratio = self.keeping.state.reduced_bytes / self.keeping.element_bytes
        found = []
        for rank, group in enumerate(self.groups):
            sums_s, optimizer_s = self.views[group].rank_tails_s[rank]
            tied = ratio * sum(size for name, size in self.ranks[rank].tied.items() if name in across)
            if tied:
                ends = [self.mixed.crossing(end) for end in range(len(self.views))]
                sums_s += max(all_reduce_s(tied, Group(2, max(stride, end.devices_per_node)), end) for end in ends)
                sums_s -= all_reduce_s(tied, Group(2, stride), self.views[group].cluster)
            found.append((sums_s, optimizer_s))
        return tuple(found)

    @property
    def _tied_across(self) -> frozenset[str]:
        """The parameters that stages of several groups use."""
        groups: dict[str, set[int]] = {}
        for group, stage in zip(self._stage_groups, self.stages, strict=True):
            for name in stage.tied:
                groups.setdefault(name, set()).add(group)
        return frozenset(name for name, own in groups.items() if len(own) > 1)

    def device_of(self, rank: int) -> Device:
        """What a rank of the pipeline runs on."""
        return self.mixed.groups[self.groups[rank]].cluster.device

    @property
    def fullest(self) -> int:
        """The rank that has the least left of what its device has."""
        left = [limit - own.total_bytes for limit, own in zip(self.limits_bytes, self.memory, strict=True)]
        return min(range(self.pp), key=lambda rank: left[rank])

    def fits(self, limit_bytes: float) -> bool:
        """Whether no rank needs more than its own device has, if there is a limit at all."""
        return limit_bytes == float("inf") or all(
            own.total_bytes <= limit for own, limit in zip(self.memory, self.limits_bytes, strict=True)
        )
