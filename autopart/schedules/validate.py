"""validate: prove that a schedule does all the work, once, and never deadlocks."""

from collections.abc import Sequence
from itertools import pairwise

from autopart.errors import PlanningError
from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.execution_order import execution_order


def validate(
    schedule: Schedule,
    stages: int,
    micro_batches: int,
    producers: Sequence[Sequence[int]] | None = None,
    kinds: Sequence[Kind] = (Kind.FORWARD, Kind.BACKWARD),
) -> None:
    """Return if `schedule` is right, else raise PlanningError with the offending rank and action.

    Right means: each of the stages lives on one rank and does each of `kinds` of each micro-batch exactly once, in that
    order; and executed symbolically, with asynchronous sends, it reaches its end. `producers[s]` are the stages whose
    forward stage s needs (and whose backward needs that of s); left out, a stage needs the one before it.
    """
    if stages < 1 or micro_batches < 1:
        raise PlanningError(f"nothing to do with {stages} stages and {micro_batches} micro-batches: both start at 1")
    homes: dict[int, int] = {}
    seen = {kind.value: bytearray(stages * micro_batches) for kind in kinds}  # by stage, then micro-batch
    before = {later.value: earlier.value for earlier, later in pairwise(kinds)}
    for rank, actions in enumerate(schedule):
        for action in actions:
            stage, micro_batch = action.stage, action.micro_batch
            if not 0 <= stage < stages:
                raise _error(rank, action, f"there is no such stage, only 0 to {stages - 1}")
            if not 0 <= micro_batch < micro_batches:
                raise _error(rank, action, f"there is no such micro-batch, only 0 to {micro_batches - 1}")
            home = homes.setdefault(stage, rank)
            if home != rank:
                raise _error(rank, action, f"the stage is already on rank {home}")
            letter, index = action.kind.value, stage * micro_batches + micro_batch
            if letter not in seen:
                raise _error(rank, action, f"the schedule is to have {' and '.join(seen)} alone")
            same_kind = seen[letter]
            if same_kind[index]:
                raise _error(rank, action, "done twice")
            if letter in before and not seen[before[letter]][index]:
                raise _error(rank, action, f"its {before[letter]}{micro_batch} does not come before it")
            same_kind[index] = 1
    for kind in kinds:
        index = seen[kind.value].find(0)
        if index >= 0:
            stage, micro_batch = divmod(index, micro_batches)
            action = Action(kind, stage, micro_batch)
            if stage not in homes:
                raise PlanningError(f"{action} of stage {stage} is missing: no rank has the stage")
            raise _error(homes[stage], action, "missing")
    execution_order(schedule, producers)


def _error(rank: int, action: Action, problem: str) -> PlanningError:
    return PlanningError(f"rank {rank}, {action} of stage {action.stage}: {problem}")
