"""Candidate: one point of the search space, cut and priced: how long a step takes."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise

from autopart.ir.action import Kind, Schedule
from autopart.schedules.find import Definition, find_schedule
from autopart.schedules.makespan import makespan_s
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.search.cut_point import CutPoint, Times

Played = tuple[Schedule, Times, Times, Times, bool, Times | None]


@dataclass(frozen=True)
class Candidate(CutPoint):
    """A cut point with the seconds of a step: by the estimate, by a bound, and played out."""

    @cached_property
    def tails_s(self) -> tuple[float, float]:
        """What the schedule leaves out, of the rank that takes longest; and what the stack does once a step."""
        sums_s, optimizer_s = max(((0.0, 0.0), *self.rank_tails_s), key=sum)
        return sums_s, optimizer_s + self.keeping.stack.step_s

    @cached_property
    def rank_tails_s(self) -> tuple[tuple[float, float], ...]:
        """Of each rank: sums of gradients over tp, tied stages and replicas that nothing hides; and the optimizer."""
        owned = [rank.tied for rank in self.ranks]
        places = Counter(chain.from_iterable(owned))
        forward_s, backward_s = self._of_ranks(self.forward_s), self._of_ranks(self.backward_s)
        known: dict[tuple[float, ...], tuple[float, float]] = {}
        stride, found = self.tp * self.cp * self.dp, []
        for rank, sizes, *times in zip(self.ranks, owned, forward_s, backward_s, strict=True):
            tied = sum(size for target, size in sizes.items() if places[target] > 1)
            key = rank.held[0], tied, rank.partial_bytes, *times
            if key not in known:
                known[key] = self.table.tail_s(*key, tp=self.tp, stride=stride)
            found.append(known[key])
        return tuple(found)

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
        weight_s = self.weight_s
        return self.forward_s, tuple(b - w for b, w in zip(self.backward_s, weight_s, strict=True)), weight_s

    def _of_ranks(self, times_s: Times) -> Times:
        if self.virtual_stages == 1:
            return times_s
        return tuple([sum([times_s[index] for index in own]) for own in self.homes])

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
        actions = written_out(self.schedule, self.pp, self.micro_batches, self.virtual_stages)
        forward_s, backward_s, weight_s = self._passes
        weights = weight_s if self._definition.splits_backward else None
        if Kind.BACKWARD not in self._definition.kinds:
            backward_s = self.backward_s
        return actions, forward_s, backward_s, self.sends_s, self.keeping.stack.blocking_sends, weights


@lru_cache(maxsize=4)
def written_out(schedule: str, pp: int, micro_batches: int, virtual_stages: int) -> Schedule:
    """The actions of all ranks; candidates of one point, that are played out one after the other, share them."""
    return find_schedule(schedule)(pp, micro_batches, virtual_stages)
