"""RankMixes: which layers are recomputed where a rank has several stages, that share its memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autopart.estimate.recompute import NONE, is_repeated
from autopart.search.candidate import Candidate
from autopart.search.mixes import worthwhile
from autopart.search.stage_costs import StageCosts

Kinds = tuple[str, ...]
Changes = Sequence[tuple[int, str]]  # a unit, and how it is recomputed from then on


@dataclass(frozen=True)
class RankMixes:
    """Of pipelines of one schedule, all with the same units and ranks.

    Attributes:
        table: what stages cost.
        limit_bytes: all that a device has.
        kinds: of recomputation that there are.
    """

    table: StageCosts
    limit_bytes: float
    kinds: Kinds
    _known: dict[tuple[object, ...], tuple[Kinds, ...]] = field(default_factory=dict)

    def with_mixes(self, candidate: Candidate) -> Candidate:
        """The candidate with as few layers recomputed on every rank as it needs to fit.

        A rank that does not fit in any case recomputes all that it can.
        """
        found = [NONE] * len(self.table.costs)
        for rank, stages in enumerate(candidate.homes):
            spans = [candidate.spans[stage] for stage in stages]
            entering = tuple(candidate.entering_bytes[stage] for stage in stages)
            key = rank, entering, *(self.table.numbers(*span) for span in spans)
            if key not in self._known:
                self._known[key] = self._kinds(candidate, rank)
            for (start, stop), own in zip(spans, self._known[key], strict=True):
                found[start:stop] = own
        return replace(candidate, kinds=tuple(found))

    def _kinds(self, candidate: Candidate, rank: int) -> tuple[Kinds, ...]:
        """How the units of each stage of a rank are recomputed: by as many of the changes as are needed, by bisection.

        A layer saves more where its stage has more micro-batches in flight: what takes the least time for the bytes
        that the rank does not hold then comes first. Of equal layers the first of a stage are recomputed, since what
        the last ones keep is freed before the first are computed again.
        """
        changes = self._changes(candidate, rank)
        few, enough = -1, len(changes)
        while enough - few > 1:
            middle = (few + enough) // 2
            if self._fits(candidate, rank, _changed(candidate, changes[:middle])):
                enough = middle
            else:
                few = middle
        found = _changed(candidate, changes[:enough])
        return tuple(found[slice(*candidate.spans[stage])] for stage in candidate.homes[rank])

    def _fits(self, candidate: Candidate, rank: int, kinds: Kinds) -> bool:
        return candidate.rank_memory(rank, kinds).total_bytes <= self.limit_bytes

    def _changes(self, candidate: Candidate, rank: int) -> Changes:
        """What can be recomputed of a rank's units, in the order in which it is."""
        found = []
        for stage, held in zip(candidate.homes[rank], candidate.held[rank].mean(axis=0).tolist(), strict=True):
            for unit in range(*candidate.spans[stage]):
                cost, saved, again_s = self.table.costs[unit], 0.0, 0.0
                for step in worthwhile(cost, self.kinds) if held and is_repeated(cost) else ():
                    each_s = (step.again_s - again_s) / (step.saved - saved) / held
                    found.append((each_s, unit, step.kind))
                    saved, again_s = step.saved, step.again_s
        return [(unit, kind) for _, unit, kind in sorted(found, key=lambda own: own[:2])]


def _changed(candidate: Candidate, changes: Changes) -> Kinds:
    """How every unit is recomputed after the changes."""
    kinds = [NONE] * len(candidate.kinds)
    for unit, kind in changes:
        kinds[unit] = kind
    return tuple(kinds)
