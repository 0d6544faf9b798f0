"""The pipeline search with recomputation chosen layer by layer: cuts, and for each stage the mix that lets it fit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import Keeping
from autopart.estimate.recompute import NONE
from autopart.search.mixes import Mixes, Stages
from autopart.search.pipeline import CutSearch, Matrix, best_cuts, least_slowest

ROUNDING = 1e-9


class MixedCutSearch:
    """The cuts of one chain of units, each stage with its cheapest mix of recomputation; serves every number of stages.

    The times of stages, which the dynamic program of `CutSearch` goes over, are those of the fastest mix that fits the
    stage's memory: earlier stages have more micro-batches in flight, and recompute more.

    Args:
        costs: of the units, without recomputation.
        keeping: how the state of parameters is kept.
        kinds: of recomputation that there are.
        allowed: cut only before these units; left out, before any.
    """

    def __init__(
        self, costs: Sequence[UnitCost], keeping: Keeping, kinds: Sequence[str], allowed: Sequence[int] | None = None
    ) -> None:
        self._keeping, self._count = keeping, len(costs)
        self._plain, self._mixes = CutSearch(costs, keeping, allowed), Mixes(costs, keeping, kinds)
        self._least: dict[int, float] = {}
        most = [max((step.saved for step in own.steps), default=0.0) for own in self._mixes.layers]
        saved = np.zeros(len(costs) + 1)
        for own, each in zip(self._mixes.layers, most, strict=True):
            saved[own.start + 1 : own.stop + 1] = each
        self._saved = np.cumsum(saved)
        # A stage whose layers are all recomputed takes at most so many times as long.
        again = [max(step.again_s for step in own.steps) for own in self._mixes.layers]
        passes = [costs[own.start].forward_s + costs[own.start].backward_s for own in self._mixes.layers]
        self._slowdown = 1 + max((a / p for a, p in zip(again, passes, strict=True) if p > 0), default=0.0)

    def cuts(
        self, stages: int, in_flight: Sequence[int], limit_bytes: float
    ) -> tuple[tuple[int, ...], tuple[str, ...]] | None:
        """The cuts that make the slowest stage fastest, and among those the other stages even; None if none fits.

        Args:
            stages: how many stages.
            in_flight: for each stage, the most micro-batches in flight.
            limit_bytes: what tensors can have of a device.

        Returns:
            The indices of the units that begin the second and later stages, and every unit's kind of recomputation.
        """
        if stages > self._count:
            return None
        flying = in_flight[:stages]
        plain = self._plain.fitting(flying, limit_bytes)
        if stages not in self._least:
            self._least[stages] = least_slowest([self._plain.duration] * stages)
        least = self._least[stages]
        if not np.isfinite(least):
            return None
        durations, slowest = plain, least_slowest(plain)
        if slowest > least * (1 + ROUNDING) and self._mixes.layers:
            # First only stages that can be in a chain of this pace; if there is none, all that can be.
            for pace in (min(slowest, self._slowdown * least), slowest):
                durations = self._mixed(plain, flying, limit_bytes, pace * (1 + ROUNDING))
                if least_slowest(durations) <= pace * (1 + ROUNDING):
                    break
        cuts = best_cuts(durations)
        return None if cuts is None else (cuts, self._kinds(cuts, flying, limit_bytes))

    def _mixed(
        self, plain: Sequence[Matrix], in_flight: Sequence[int], limit_bytes: float, pace_s: float
    ) -> list[Matrix]:
        """The durations of stages with mixes; of no interest are those that take more than `pace_s` without."""
        memory, free = self._plain.memory, self._plain.memory.free_bytes(limit_bytes, self._keeping)
        duration, saved = self._plain.duration, self._saved[None, :] - self._saved[:, None]
        interesting = (duration <= pace_s) & (free > -np.inf) & np.isfinite(duration)
        found: dict[int, Matrix] = {}
        asked: dict[int, NDArray[np.intp]] = {}
        for flying, own in zip(in_flight, plain, strict=True):
            if flying not in found:
                found[flying] = np.where(interesting, own, np.inf)
                may_fit = flying * (memory.kept - saved) <= free * (1 + ROUNDING)
                asked[flying] = np.argwhere(interesting & np.isinf(own) & may_fit)
        start, stop = np.concatenate(list(asked.values())).T
        counts = np.concatenate([np.full(len(pairs), float(flying)) for flying, pairs in asked.items()])
        stages = Stages(start, stop, counts, free[start, stop], memory.kept[start, stop])
        seconds = duration[start, stop] + self._mixes.again_s(stages)
        first = 0
        for flying, pairs in asked.items():
            found[flying][tuple(pairs.T)] = seconds[first : first + len(pairs)]
            first += len(pairs)
        return [found[flying] for flying in in_flight]

    def _kinds(self, cuts: Sequence[int], in_flight: Sequence[int], limit_bytes: float) -> tuple[str, ...]:
        """Every unit's kind in the best mixes of these stages."""
        start, stop = np.array([0, *cuts]), np.array([*cuts, self._count])
        memory = self._plain.memory
        free = memory.free_bytes(limit_bytes, self._keeping)[start, stop]
        kept, counts = memory.kept[start, stop], np.array(in_flight, dtype=np.float64)
        if np.all(counts * kept + memory.beside[start, stop] <= free):
            return (NONE,) * self._count
        mixes = self._mixes.kinds(Stages(start, stop, counts, free, kept))
        return tuple(kind for own in mixes for kind in own)
