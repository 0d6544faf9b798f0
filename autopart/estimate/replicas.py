"""Replicas: what data parallelism costs, once a step for whole copies and in every pass where parameters are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.estimate.memory import Keeping, held_bytes, parameter_bytes
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, reduce_scatter_s
from cost_models.compute import memory_bound_s

# DeepSpeed's stage3_param_persistence_threshold: smaller parameters every rank keeps whole.
PERSISTENT_ELEMENTS = 100_000


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Seconds of what units exchange in a forward and a backward pass, for itself.

    Attributes:
        gathered_s: of gathering their parameters once.
        resident_s: of that, what stands outside of layers and is gathered for a whole pass.
        reduced_s: of reducing their gradients.
        copied_forward_s, copied_backward_s: of copies beside these, in both passes.
        largest_s: of gathering the parameters of one unit, at the most.
    """

    gathered_s: float = 0.0
    resident_s: float = 0.0
    reduced_s: float = 0.0
    copied_forward_s: float = 0.0
    copied_backward_s: float = 0.0
    largest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """The ranks that hold the same parameters, and how they keep them."""

    group: Group
    cluster: Cluster
    keeping: Keeping

    def step_s(self, held_bytes: float, forward_s: float, backward_s: float) -> float:
        """Seconds once a step, of a stage with `held_bytes` of parameters: reducing gradients, gathering parameters.

        What the stack overlaps runs beside the backward pass of the last micro-batch, which takes `backward_s`, and
        the forward pass of the first. ZeRO-2 reduces in every pass and ZeRO-3 does both in every pass, see `paced`.
        """
        if self.group.ranks == 1 or self.keeping.zero >= 3:
            return 0.0
        stack = self.keeping.stack
        reduced_bytes = held_bytes * self.keeping.state.reduced_bytes / self.keeping.element_bytes
        if self.keeping.zero == 0:
            return self._exposed_s(
                all_reduce_s(reduced_bytes, self.group, self.cluster), stack.reduction_overlap, backward_s
            )
        scatter_s = self._reduced_s(reduced_bytes) if self.keeping.zero == 1 else 0.0
        gather_s = all_gather_s(held_bytes, self._sharers, self.cluster)
        return self._exposed_s(scatter_s, stack.reduction_overlap, backward_s) + self._exposed_s(
            gather_s, stack.gather_overlap, forward_s
        )

    def least_step_s(self, held_bytes: float) -> float:
        """The least of it, however long the passes are."""
        return self.step_s(held_bytes, inf, inf)

    def _exposed_s(self, seconds: float, overlap: float, beside_s: float) -> float:
        hidden = min(overlap * seconds, beside_s)
        return seconds - hidden + (self.keeping.stack.contention - 1) * hidden

    def paced(self, stage: Sequence[UnitCost], forward_s: float, backward_s: float) -> tuple[float, float]:
        """Seconds of both passes of a stage over a micro-batch, given those of its computing.

        Under ZeRO-2 whole gradients are kept nowhere: what a pass makes is reduced in it, as once a step otherwise.
        Under ZeRO-3 every unit's parameters are gathered while the unit before computes, in both passes, and its
        gradients reduced while the next computes (Zhao et al. 2023, "PyTorch FSDP", section 3.3): a unit takes as long
        as the slower of both. What nothing hides are the first gathering, what a stack gathers for the whole pass, and
        the last reduction. The unit's own kernels share the memory with copies: out of the buffer of what was gathered,
        and into that of what is reduced.
        """
        state = self.keeping.state
        if self.group.ranks == 1 or self.keeping.zero < 2:
            return forward_s, backward_s
        if self.keeping.zero == 2:
            reduced = parameter_bytes(stage)[0] * state.reduced_bytes / self.keeping.element_bytes
            scatter_s = self._reduced_s(reduced) if reduced else 0.0
            return forward_s, backward_s + self._exposed_s(scatter_s, self.keeping.stack.reduction_overlap, backward_s)
        if self.keeping.stack.gathers_in_lists:
            ahead_s, back_s = (sum(own) for own in zip(*each_unit(stage, self._in_lists), strict=True))
            return forward_s + ahead_s, backward_s + back_s
        every = each_unit(stage, self._exchanged)
        gathers_s = [0.0 if own.resident_s else own.gathered_s for own in every]
        # Of gathering what stands outside of layers, before a pass.
        exposed_s = sum([own.resident_s for own in every])
        scale_f = forward_s / max(1e-30, sum([cost.forward_s for cost in stage]))
        scale_b = backward_s / max(1e-30, sum([cost.backward_s for cost in stage]))
        forward, backward = exposed_s + gathers_s[0], exposed_s + every[0].reduced_s
        last = len(stage) - 1
        for index, (cost, own) in enumerate(zip(stage, every, strict=True)):
            ahead = gathers_s[index + 1] if index < last else 0.0
            forward += self._beside_s(cost.forward_s * scale_f + own.copied_forward_s, ahead)
            before = gathers_s[index - 1] if index else 0.0
            after = every[index + 1].reduced_s if index < last else 0.0
            backward += self._beside_s(cost.backward_s * scale_b + own.copied_backward_s, before + after)
        return forward, backward

    def least_paced_s(self, stage: Sequence[UnitCost], forward_s: float, backward_s: float) -> float:
        """Seconds that both passes of a stage together do not take less than, whichever of its units are recomputed
        in `backward_s`.
        """
        if self.keeping.zero < 3 or self.keeping.stack.gathers_in_lists or self.group.ranks == 1:
            return sum(self.paced(stage, forward_s, backward_s))
        every = each_unit(stage, self._exchanged)
        shown_s = sum([2 * own.resident_s + own.copied_forward_s + own.copied_backward_s for own in every])
        shown_s += every[0].reduced_s + (0.0 if every[0].resident_s else every[0].gathered_s)
        return forward_s + backward_s + shown_s

    def least_exchanged(self, units: Sequence[tuple[UnitCost, int]], own_bytes: float) -> Exchanged:
        """What units exchange in both passes at the least, however they are cut.

        Args:
            units: of each, how many there are.
            own_bytes: of their parameters, each once.
        """
        if self.group.ranks == 1 or self.keeping.zero < 2 or self.keeping.stack.gathers_in_lists:
            return Exchanged()
        if self.keeping.zero == 2:  # a sum takes at least as long in parts as at once
            element = self.keeping.element_bytes
            reduced = own_bytes * self.keeping.state.reduced_bytes / element
            return Exchanged(reduced_s=self._reduced_s(reduced) if reduced else 0.0)
        every = [(self._exchanged(cost), count) for cost, count in units]
        return Exchanged(
            sum([own.gathered_s * count for own, count in every]),
            sum([own.resident_s * count for own, count in every]),
            sum([own.reduced_s * count for own, count in every]),
            sum([own.copied_forward_s * count for own, count in every]),
            sum([own.copied_backward_s * count for own, count in every]),
            max((own.gathered_s for own, _ in every), default=0.0),
        )

    def least_passes_s(self, own: Exchanged, stages: int, forward_s: float, backward_s: float) -> float:
        """Seconds that all stages together do not take less than for both passes, given those of computing.

        Where what a unit exchanges is hidden by what it computes, it takes as long as the longer of both, and so do
        all units at the least; but the last unit of a stage has been gathered when its backward pass begins.
        """
        if self.keeping.zero == 2:
            shown_s = (1 - self.keeping.stack.reduction_overlap) * own.reduced_s
            return forward_s + max(backward_s + shown_s, own.reduced_s)
        sent_s = own.reduced_s + max(0.0, own.gathered_s - stages * own.largest_s)
        forward_s = max(forward_s + own.copied_forward_s + own.resident_s, own.gathered_s)
        return forward_s + max(backward_s + own.copied_backward_s + own.resident_s, sent_s)

    def _exchanged(self, cost: UnitCost) -> Exchanged:
        """What a unit exchanges under ZeRO-3."""
        held, device = held_bytes(cost), self.cluster.device
        if not held:
            return Exchanged()
        reduced = held * self.keeping.state.reduced_bytes / self.keeping.element_bytes
        gathered_s, copied_s = all_gather_s(held, self._sharers, self.cluster), memory_bound_s(2 * held, device)
        return Exchanged(
            gathered_s,
            gathered_s if self.keeping.resident(cost) else 0.0,
            self._reduced_s(reduced),
            copied_s,
            copied_s + memory_bound_s(held + reduced, device),
            gathered_s,
        )

    def _in_lists(self, cost: UnitCost) -> tuple[float, float]:
        """Seconds in both passes of gathering a unit's parameters one by one, and of scattering their gradients so.

        torch's collectives of lists copy every rank's piece by a kernel (its ProcessGroupNCCL.cpp, `allgather`). What
        is recomputed is gathered thrice: computing it again releases its parameters, which its gradients need
        (Rajbhandari et al. 2021, "ZeRO-Infinity", section 4.1).
        """
        gathered_s, reduced_s, device = 0.0, 0.0, self.cluster.device
        launches_s = self._sharers.ranks * max(device.kernel_launch_s, self.keeping.stack.dispatch_s)
        for _, size, elements in cost.parameters:
            if elements > PERSISTENT_ELEMENTS:
                reduced = size * self.keeping.state.reduced_bytes / self.keeping.element_bytes
                gathered_s += all_gather_s(size, self._sharers, self.cluster)
                gathered_s += launches_s + memory_bound_s(2 * size, device)
                reduced_s += self._reduced_s(reduced) + launches_s + memory_bound_s(2 * reduced, device)
        return gathered_s, gathered_s * (2 if cost.again_s else 1) + reduced_s

    @property
    def _sharers(self) -> Group:
        """The ranks that share what ZeRO shares: all, or those of a node."""
        return Group(self.keeping.replicas, self.group.stride)

    def _reduced_s(self, size_bytes: float) -> float:
        """Seconds until every rank has its share of the sum over all replicas of gradients of `size_bytes`."""
        sharers = self._sharers
        copies = Group(-(-self.group.ranks // sharers.ranks), self.group.stride * sharers.ranks)
        among_s = all_reduce_s(size_bytes / sharers.ranks, copies, self.cluster)
        return reduce_scatter_s(size_bytes, sharers, self.cluster) + among_s

    def _beside_s(self, computing_s: float, sending_s: float) -> float:
        slowed = computing_s + (self.keeping.stack.contention - 1) * min(computing_s, sending_s)
        return max(slowed, sending_s)
