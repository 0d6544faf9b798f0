"""stage_plans: what a reader is told of each stage of a candidate."""

from collections.abc import Sequence
from itertools import groupby

from autopart.ir.plan import StagePlan
from autopart.ir.units import Unit
from autopart.search.candidate import Candidate


def stage_plans(candidate: Candidate, units: Sequence[Unit]) -> tuple[StagePlan, ...]:
    """Of every stage in order; `units` are those of the model."""
    plans = []
    for index, (stage, (start, stop)) in enumerate(zip(candidate.stages, candidate.spans, strict=True)):
        own = zip(units[start:stop], candidate.kinds[start:stop], strict=True)
        layers = [kind for unit, kind in own if unit.loop is not None]
        rank = candidate.rank_of[index]
        plans.append(
            StagePlan(
                start,
                stop,
                units[start].name,
                units[stop - 1].name,
                len(layers),
                stage.held[1],
                candidate.forward_s[index],
                candidate.backward_s[index],
                sum(cost.communication_s for cost in candidate.costs[start:stop]),
                candidate.memory[rank],
                candidate.weight_s[index],
                candidate.sends_s[index] if index < len(candidate.sends_s) else 0.0,
                tuple((kind, len(list(alike))) for kind, alike in groupby(layers)),
                candidate.device_of(rank).name,
            )
        )
    return tuple(plans)
