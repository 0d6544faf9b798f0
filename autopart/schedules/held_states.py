"""held_states: what every rank of a schedule holds when it holds most, for any sizes of its stages."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autopart.schedules.find import find_schedule
from autopart.schedules.homes import rank_stages

States = tuple[NDArray[np.float64], ...]


@lru_cache(maxsize=256)
def held_states(schedule: str, ranks: int, micro_batches: int, virtual_stages: int) -> States:
    """For each rank, rows of how many micro-batches each of its stages holds at once, those that may be its peak.

    A rank whose stages hold `sizes` bytes of a micro-batch needs `(states @ sizes).max()`: the peak of `peak_in_flight`
    for as many sizes as there are questions, from one look at the schedule. The columns are in the order of
    `rank_stages`.
    """
    definition = find_schedule(schedule)
    first, last = definition.kinds[0], definition.kinds[-1]
    found = []
    actions_of = definition(ranks, micro_batches, virtual_stages)
    for own, actions in zip(rank_stages(schedule, ranks, virtual_stages), actions_of, strict=True):
        place = {stage: column for column, stage in enumerate(own)}
        held, seen = [0] * len(own), set[tuple[int, ...]]()
        for action in actions:
            if action.kind is first:
                held[place[action.stage]] += 1
                seen.add(tuple(held))
            if action.kind is last:
                held[place[action.stage]] -= 1
        found.append(_largest(seen))
    return tuple(found)


def _largest(seen: set[tuple[int, ...]]) -> NDArray[np.float64]:
    """Those of the states that no other one exceeds in every stage."""
    states = np.array(sorted(seen), dtype=np.float64)
    exceeded = (states[:, None, :] <= states[None, :, :]).all(axis=-1).sum(axis=1) > 1
    return np.asarray(states[~exceeded])
