"""homes: which rank has which stage, as read off a schedule."""

from functools import lru_cache

from autopart.ir.action import Schedule
from autopart.schedules.find import find_schedule


def homes(schedule: Schedule) -> tuple[int, ...]:
    """The rank of every stage; each of them must be on exactly one, as `validate` proves."""
    found = {action.stage: rank for rank, actions in enumerate(schedule) for action in actions}
    return tuple(rank for _, rank in sorted(found.items()))


@lru_cache(maxsize=512)
def rank_stages(schedule: str, ranks: int, virtual_stages: int) -> tuple[tuple[int, ...], ...]:
    """For each rank of a schedule, the stages that it has."""
    if virtual_stages == 1:
        return tuple((rank,) for rank in range(ranks))
    definition = find_schedule(schedule)
    shortest = definition(ranks, ranks if definition.whole_rounds else 1, virtual_stages)
    return tuple(tuple(sorted({action.stage for action in actions})) for actions in shortest)
