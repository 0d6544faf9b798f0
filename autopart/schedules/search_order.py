"""search_order: a zero-bubble schedule within a limit of memory, found greedily.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, section 3.1.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from itertools import product
from math import inf

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.delay_weights import delay_weights
from autopart.schedules.in_flight import peak_in_flight
from autopart.schedules.pipeline import Pipeline
from autopart.schedules.simulate import simulate

STEADY = 2  # times the limit: by then a pipeline has been filled and drained, and longer ones differ between alone
F, B, W = Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT


def search_order(pipeline: Pipeline, limit: int) -> Schedule:
    """The schedule with a split backward pass that is fastest of those that are tried, stage s on rank s.

    No rank holds more than `limit` micro-batches (at least as many as there are ranks) between their F and their W. In
    those that are found greedily, every rank does what it can as soon as it can:

        before the first B   as many F as the limit allows
        then                 F and B in turn; the other one, where the one whose turn it is has to wait
        W                    where the rank would wait longer than a W takes, or more than any rank has waited so far;
                             and where the limit leaves no room for an F
        at the end           the W that are left

    The paper leaves two choices open, and all four ways are tried: whether to do an F just before the first B though
    that B comes late by it, and whether to leave out an F for a B where a rank is well ahead of the next one. ZB-H1
    and, where the limit allows it, ZB-H2 are tried too: they are better where a W takes longer than an F.
    """
    tried: list[Callable[[Pipeline], Schedule]] = [
        partial(_found, limit, eager, skipping) for eager, skipping in product((True, False), repeat=2)
    ]
    tried += [partial(_written, factor) for factor in (1, 2) if factor * (pipeline.ranks - 1) < limit]
    sample = replace(pipeline, micro_batches=min(pipeline.micro_batches, STEADY * limit))
    return min(tried, key=lambda order: _badness(order(sample), sample))(pipeline)


def _found(limit: int, eager: bool, skipping: bool, pipeline: Pipeline) -> Schedule:
    return _Greedy(pipeline, limit, eager, skipping).run()


def _written(factor: int, pipeline: Pipeline) -> Schedule:
    ranks, micro_batches = range(pipeline.ranks), pipeline.micro_batches
    return tuple(delay_weights(r, micro_batches, factor * (pipeline.ranks - 1 - r), factor * r) for r in ranks)


def _badness(schedule: Schedule, pipeline: Pipeline) -> tuple[float, ...]:
    """The length of the step, then the longest that a rank idles, then the memory."""
    ranks = pipeline.ranks
    forward_s, backward_s, weight_s = (
        [time_s] * ranks for time_s in (pipeline.forward_s, pipeline.backward_s, pipeline.weight_s)
    )
    timeline = simulate(schedule, forward_s, backward_s, [0.0] * (ranks - 1), weight_s=weight_s)
    idle_s = max(timeline.idle_s(rank) for rank in range(ranks))
    busy_s = pipeline.micro_batches * (pipeline.forward_s + pipeline.backward_s + pipeline.weight_s)
    return (round(timeline.step_s / busy_s, 9), round(idle_s / busy_s, 9), sum(peak_in_flight(schedule)))


class _Rank:
    """What a rank has done; it does F, B and W each in the order of the micro-batches."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.actions: list[Action] = []
        self.counts = [0, 0, 0]  # of F, B and W done
        self.arrived_s: tuple[list[float], list[float]] = ([], [])  # when the inputs of F and B are here, where known
        self.turn = F
        self.free_s = self.idle_s = 0.0

    def arrival_s(self, kind: Kind) -> float:
        """When the input of the next F or B is here; infinite as long as that is not known."""
        number = _NUMBER[kind.value]
        known, index = self.arrived_s[number], self.counts[number]
        return known[index] if index < len(known) else inf


_NUMBER = {"F": 0, "B": 1, "W": 2}


class _Greedy:
    """One run of the heuristic, its two choices made: events in the order of time, so what is to come is not known."""

    def __init__(self, pipeline: Pipeline, limit: int, eager: bool, skipping: bool) -> None:
        self._pipeline, self._limit, self._eager, self._skipping = pipeline, limit, eager, skipping
        self._times_s = (pipeline.forward_s, pipeline.backward_s, pipeline.weight_s)
        self._ranks = [_Rank(stage) for stage in range(pipeline.ranks)]
        self._ranks[0].arrived_s[0].extend([0.0] * pipeline.micro_batches)
        self._longest_s = 0.0  # that any rank has waited so far
        self._events: list[tuple[float, int]] = [(0.0, 0)]  # when which rank may have something to do

    def run(self) -> Schedule:
        """The actions of all ranks."""
        while self._events:
            now_s, stage = heappop(self._events)
            rank = self._ranks[stage]
            if now_s < rank.free_s or rank.counts[2] == self._pipeline.micro_batches:
                continue
            kind = self._choose(rank, now_s)
            if kind is not None:
                self._do(rank, kind, now_s)
        return tuple(tuple(rank.actions) for rank in self._ranks)

    def _choose(self, rank: _Rank, now_s: float) -> Kind | None:
        """What `rank` does next; None to wait for the next event."""
        forwards, backwards, weights = rank.counts
        forward_s, backward_s = rank.arrival_s(F), rank.arrival_s(B)
        room = forwards - weights < self._limit and forwards < self._pipeline.micro_batches
        if backwards == 0:
            if backward_s <= now_s:
                return B
            delays = now_s + self._pipeline.forward_s > backward_s
            return F if room and forward_s <= now_s and (self._eager or not delays) else None
        if rank.turn is F and not (self._skipping and self._ahead(rank) and backward_s <= now_s):
            if room and forward_s <= now_s:
                return F
            if weights < backwards and forwards - weights == self._limit and forwards < self._pipeline.micro_batches:
                return W
        if backward_s <= now_s:
            return B
        wait_s = min(forward_s if room else inf, backward_s) - now_s
        if wait_s <= 0 and weights == backwards:
            return F
        if weights < backwards and (wait_s >= self._pipeline.weight_s or rank.idle_s + wait_s > self._longest_s):
            return W
        return None

    def _ahead(self, rank: _Rank) -> bool:
        """Whether the next rank would have work if `rank` did no F now."""
        return rank.stage + 1 < len(self._ranks) and rank.counts[0] > self._ranks[rank.stage + 1].counts[0] + 1

    def _do(self, rank: _Rank, kind: Kind, now_s: float) -> None:
        number = _NUMBER[kind.value]
        rank.idle_s += now_s - rank.free_s if rank.actions else 0.0
        self._longest_s = max(self._longest_s, rank.idle_s)
        rank.free_s = end_s = now_s + self._times_s[number]
        rank.actions.append(Action(kind, rank.stage, rank.counts[number]))
        rank.counts[number] += 1
        heappush(self._events, (end_s, rank.stage))
        if kind is W:
            return
        rank.turn = B if kind is F else F
        other = rank.stage + (1 if kind is F else -1)
        if kind is F and other == len(self._ranks):
            rank.arrived_s[1].append(end_s)  # the last stage has all that its B needs
        elif other >= 0:
            self._ranks[other].arrived_s[number].append(end_s)
            heappush(self._events, (end_s, other))
