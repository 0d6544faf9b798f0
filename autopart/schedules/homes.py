"""homes: which rank has which stage, as read off a schedule."""

from autopart.ir.action import Schedule


def homes(schedule: Schedule) -> tuple[int, ...]:
    """The rank of every stage; each of them must be on exactly one, as `validate` proves."""
    found = {action.stage: rank for rank, actions in enumerate(schedule) for action in actions}
    return tuple(rank for _, rank in sorted(found.items()))
