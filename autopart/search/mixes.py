"""Mixes: for a stage, which of its layers are recomputed so that it fits, in the least time.

Of equal layers only their number matters: within a stage the first ones are recomputed, fully before selectively, since
what the last ones keep is freed before the first are computed again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.estimate.memory import Keeping
from autopart.estimate.recompute import FULL, KINDS, NONE, is_repeated, recomputation

MOST_MIXES = 2000  # of a stage whose layers are tried out in all numbers; with more, the cheapest bytes come first
ROUNDING = 1e-9

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer that is recomputed: what it keeps and makes again, what that saves, and the seconds."""

    kind: str
    kept: float
    working: float
    saved: float
    again_s: float


@dataclass(frozen=True, slots=True)
class Layers:
    """Units `start` up to `stop`: equal layers, with the kinds of recomputation that are worth it."""

    start: int
    stop: int
    kept: float
    temporary: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """Mixes that differ in one number x: of each layers and kind, `constant + slope x` layers; x is 1 up to `most`."""

    counts: Mapping[tuple[int, int], tuple[Floats, int]]
    most: Floats


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages from units `start` up to `stop`, with `flying` micro-batches in flight; each an array of one length.

    `free` are the bytes that they have for activations, `kept` those of a micro-batch without recomputation, with what
    crosses their cuts.
    """

    start: Ints
    stop: Ints
    flying: Floats
    free: Floats
    kept: Floats

    def at(self, places: NDArray[np.bool_] | Ints) -> "Stages":
        """Those at some places."""
        return Stages(self.start[places], self.stop[places], self.flying[places], self.free[places], self.kept[places])


class Mixes:
    """The mixes of stages of one chain of units.

    Args:
        costs: of the units, without recomputation.
        keeping: how the state of parameters is kept.
        kinds: of recomputation that there are.
    """

    def __init__(self, costs: Sequence[UnitCost], keeping: Keeping, kinds: Sequence[str]) -> None:
        self.layers = equal_layers(costs, keeping, kinds)
        self._prefix = np.concatenate([[0.0], np.cumsum([cost.kept_bytes for cost in costs])])
        self._temporary = np.array(each_unit(costs, keeping.temporary_bytes))
        self._starts = np.array([own.start for own in self.layers], dtype=np.intp)
        self._stops = np.array([own.stop for own in self.layers], dtype=np.intp)

    @cached_property
    def most_saved(self) -> Floats:
        """The most that can be saved of what each unit keeps."""
        saved = np.zeros(len(self._temporary))
        for own in self.layers:
            saved[own.start : own.stop] = own.steps[-1].saved
        return saved

    @property
    def most_again_s(self) -> float:
        """Seconds of all that can be recomputed."""
        return sum((own.stop - own.start) * own.steps[-1].again_s for own in self.layers)

    @cached_property
    def _peaks(self) -> Floats:
        """`[i, j]`: the most of what a unit from i up to j has beside it, and what those up to it keep."""
        own = self._temporary + self._prefix[1:]
        count = len(own)
        table = np.zeros((count + 1, count + 1))
        table[:, 1:] = np.triu(np.broadcast_to(own, (count + 1, count)))
        return np.asarray(np.maximum.accumulate(table, axis=1))

    def again_s(self, stages: Stages) -> Floats:
        """The least seconds of what each stage computes again; infinite where it does not fit."""
        return self._best(stages)[0]

    def kinds(self, stages: Stages) -> list[tuple[str, ...]]:
        """The kind of every unit of each stage, in the mix of least time."""
        _, counts = self._best(stages)
        found = []
        for place, (start, stop) in enumerate(zip(stages.start, stages.stop, strict=True)):
            own = [NONE] * int(stop - start)
            for number, layers in enumerate(self.layers):
                at = max(0, layers.start - int(start))
                for step in reversed(range(len(layers.steps))):  # the kind that keeps least comes first
                    count = int(counts[number, step][place])
                    own[at : at + count] = [layers.steps[step].kind] * count
                    at += count
            found.append(tuple(own))
        return found

    def _best(self, stages: Stages) -> tuple[Floats, dict[tuple[int, int], Ints]]:
        """The least seconds, and of each layers and kind how many are recomputed."""
        size = len(stages.start)
        best = np.full(size, np.inf)
        chosen = {
            (number, step): np.zeros(size, dtype=np.intp)
            for number, layers in enumerate(self.layers)
            for step in range(len(layers.steps))
        }
        first = np.searchsorted(self._stops, stages.start, side="right")
        last = np.searchsorted(self._starts, stages.stop, side="left")
        spans = first * (len(self.layers) + 1) + last
        for span in sorted(set(spans.tolist())):
            places = np.flatnonzero(spans == span)
            own = stages.at(places)
            numbers = range(int(first[places[0]]), int(last[places[0]]))
            counts = {x: self._count(x, own) for x in numbers}
            for family in self._families(counts, len(places)):
                again_s, x = self._least(own, numbers, counts, family)
                better = again_s < best[places] * (1 - ROUNDING)
                best[places[better]] = again_s[better]
                for key in chosen:
                    constant, slope = family.counts.get(key, (np.zeros(len(places)), 0))
                    chosen[key][places[better]] = (constant + slope * x)[better].astype(np.intp)
        return best, chosen

    def _count(self, number: int, stages: Stages) -> Floats:
        """How many of these layers each stage has."""
        layers = self.layers[number]
        own = np.minimum(stages.stop, layers.stop) - np.maximum(stages.start, layers.start)
        return np.asarray(np.maximum(own, 0), dtype=np.float64)

    def _families(self, counts: Mapping[int, Floats], size: int) -> Iterator[_Family]:
        """First that without any recomputation, then all others: of all mixes if they are not too many."""
        yield _Family({}, np.zeros(size))
        types = [(number, step) for number in counts for step in range(len(self.layers[number].steps))]
        if not types:
            return
        most = {key: int(counts[key[0]].max()) for key in types}
        main = max(types, key=lambda key: most[key])
        others = [key for key in types if key != main]
        if prod(most[key] + 1 for key in others) > MOST_MIXES:
            yield from self._cheapest_first(counts, types)
            return
        for numbers in product(*(range(most[key] + 1) for key in others)):
            fixed = {key: (np.full(size, float(x)), 0) for key, x in zip(others, numbers, strict=True) if x}
            left = counts[main[0]] - sum(x for key, x in zip(others, numbers, strict=True) if key[0] == main[0])
            over = np.zeros(size, dtype=bool)
            for number, own in counts.items():
                over |= sum(x for key, x in zip(others, numbers, strict=True) if key[0] == number) > own
            if fixed:
                yield _Family(fixed, np.where(over, -1.0, 0.0))
            yield _Family({**fixed, main: (np.zeros(size), 1)}, np.where(over, -1.0, left))

    def _cheapest_first(self, counts: Mapping[int, Floats], types: Sequence[tuple[int, int]]) -> Iterator[_Family]:
        """The layers whose bytes take the least time to make again first; the next only when all of those are."""
        gains = []
        for number, step in types:
            steps = self.layers[number].steps
            before = steps[step - 1] if step else Step(NONE, 0.0, 0.0, 0.0, 0.0)
            gain = (steps[step].again_s - before.again_s) / (steps[step].saved - before.saved)
            gains.append((gain, number, step))
        done: dict[tuple[int, int], tuple[Floats, int]] = {}
        for _, number, step in sorted(gains):
            own = counts[number]
            moved = {(number, step - 1): (own, -1)} if step else {}
            yield _Family({**done, **moved, (number, step): (0 * own, 1)}, own)
            done = {key: value for key, value in done.items() if key[0] != number} | {(number, step): (own, 0)}

    def _least(
        self, stages: Stages, numbers: Sequence[int], counts: Mapping[int, Floats], family: _Family
    ) -> tuple[Floats, Floats]:
        """The least seconds of a family for each stage, and its x.

        A peak is `a + b x` bytes, all of which are at most `free`: x is the least that those which fall with it allow.
        """
        varies = any(slope for _, slope in family.counts.values())
        saved = sum((self._step(key).saved * own for key, (own, _) in family.counts.items()), np.zeros(1))
        saves = sum(self._step(key).saved * slope for key, (_, slope) in family.counts.items())
        room = stages.free - stages.flying * (stages.kept - saved)
        x = np.full(len(room), 1.0 if varies else 0.0)
        sites = self._sites(stages, numbers, counts, family)
        for constant, slope in sites if varies else ():
            falls = slope - stages.flying * saves  # bytes for each x, below 0 where x makes room
            with np.errstate(divide="ignore", invalid="ignore"):
                needed = np.where(falls < 0, np.ceil((room - constant) / falls - ROUNDING), 0.0)
            x = np.maximum(x, needed)
        fits = (x <= family.most) & (family.most >= 0)
        for constant, slope in sites:
            fits &= constant + slope * x <= room + stages.flying * saves * x + ROUNDING * stages.free
        seconds = np.zeros(len(room))
        for key, (own, slope) in family.counts.items():
            seconds += self._step(key).again_s * (own + slope * x)
        return np.where(fits, seconds, np.inf), x

    def _step(self, key: tuple[int, int]) -> Step:
        return self.layers[key[0]].steps[key[1]]

    def _sites(
        self, stages: Stages, numbers: Sequence[int], counts: Mapping[int, Floats], family: _Family
    ) -> list[tuple[Floats, float]]:
        """Where a peak can be: (bytes at x = 0, bytes more for each x), beside what all units keep in flight.

        The units are gone through from the last to the first; what those `behind` a unit kept is freed before it.
        """
        behind, more = np.zeros(len(stages.start)), 0.0
        sites = [(behind, 0.0)]
        stop = stages.stop
        for number in reversed(numbers):
            layers = self.layers[number]
            begin = np.clip(layers.stop, stages.start, stop)
            sites.append((self._peaks[begin, stop] - self._prefix[stop] - behind, -more))
            behind = behind + self._prefix[stop] - self._prefix[begin]
            own = {step: count for (which, step), count in family.counts.items() if which == number}
            kept_whole = counts[number] - sum((constant for constant, _ in own.values()), np.zeros(1))
            sites.append((layers.temporary - behind, -more))
            behind = behind + layers.kept * kept_whole
            more -= layers.kept * sum(slope for _, slope in own.values())
            for step in range(len(layers.steps)):
                if own:
                    sites.append((layers.steps[step].working + layers.temporary - behind, -more))
                if step in own:
                    behind = behind + layers.steps[step].kept * own[step][0]
                    more += layers.steps[step].kept * own[step][1]
            stop = np.clip(layers.start, stages.start, stop)
        sites.append((self._peaks[stages.start, stop] - self._prefix[stop] - behind, -more))
        return sites


def equal_layers(costs: Sequence[UnitCost], keeping: Keeping, kinds: Sequence[str]) -> tuple[Layers, ...]:
    """The longest runs of equal layers that can be recomputed."""

    def layer(cost: UnitCost) -> Layers | None:
        if not is_repeated(cost):
            return None
        return Layers(0, 1, cost.kept_bytes, keeping.temporary_bytes(cost), worthwhile(cost, kinds))

    found: list[Layers] = []
    index = 0
    for own, alike in groupby(each_unit(costs, layer)):
        count = len(list(alike))
        if own is not None and own.steps:
            found.append(replace(own, start=index, stop=index + count))
        index += count
    return tuple(found)


def worthwhile(cost: UnitCost, kinds: Sequence[str]) -> tuple[Step, ...]:
    """The kinds of recomputation of a layer that save anything, those left out of which others save more for less.

    Selective recomputation is, where a byte takes longer than with full: the same bytes of several layers then take
    less by recomputing some of them fully.
    """
    changes = tuple((kind, *recomputation(cost, kind)) for kind in KINDS if kind != NONE and kind in kinds)
    return _worthwhile(cost.kept_bytes, changes)


@lru_cache(maxsize=4096)  # the runs of a loop are alike
def _worthwhile(kept: float, changes: tuple[tuple[str, float, float, float], ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for kind, kept_then, working, again_s in changes:
        step = Step(kind, kept_then, working, kept - kept_then, again_s)
        if step.saved <= (steps[-1].saved if steps else 0.0):
            continue
        if kind == FULL and steps and steps[-1].again_s * step.saved >= step.again_s * steps[-1].saved:
            steps.clear()
        steps.append(step)
    return tuple(steps)
