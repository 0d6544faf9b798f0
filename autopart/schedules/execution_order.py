"""execution_order: run a schedule symbolically, each action as soon as what it needs is done."""

from collections.abc import Sequence

from autopart.errors import PlanningError
from autopart.ir.action import Action, Kind, Schedule


def execution_order(
    schedule: Schedule, producers: Sequence[Sequence[int]] | None = None
) -> tuple[tuple[int, Action], ...]:
    """All (rank, action) of `schedule` in one order in which they can happen; O(actions x needs of an action).

    A rank does its actions one after another. Sends are asynchronous: a rank never waits for its receiver, only for
    what it needs itself. What an action of micro-batch m needs:

        F on stage s   F on each stage of producers[s]                    (left out: the stage before)
        B on stage s   F on stage s, B on each stage that s produces for  (left out: the stage after)
        W on stage s   B on stage s

    Raises PlanningError, with the chain of ranks that wait for each other, if the schedule cannot be finished.
    """
    micro_batches = 1 + max((action.micro_batch for actions in schedule for action in actions), default=-1)
    stages = 1 + max((action.stage for actions in schedule for action in actions), default=-1)
    needs = _needs(stages, micro_batches, producers)
    done = bytearray(3 * stages * micro_batches)
    waiting: dict[int, list[int]] = {}  # code of an action -> the ranks that stand still until it is done
    next_index = [0] * len(schedule)
    order: list[tuple[int, Action]] = []
    ready = list(reversed(range(len(schedule))))
    while ready:
        rank = ready.pop()
        actions, index = schedule[rank], next_index[rank]
        while index < len(actions):
            action = actions[index]
            kind = action.kind
            number = 0 if kind is Kind.FORWARD else 1 if kind is Kind.BACKWARD else 2
            offset = 3 * action.micro_batch
            missing = -1
            for need in needs[number][action.stage]:
                if not done[need + offset]:
                    missing = need + offset
                    break
            if missing >= 0:
                waiting.setdefault(missing, []).append(rank)
                break
            code = 3 * action.stage * micro_batches + offset + number
            done[code] = 1
            order.append((rank, action))
            index += 1
            if code in waiting:
                ready.extend(waiting.pop(code))
        next_index[rank] = index
    if waiting:
        waits = {rank: _decode(code, micro_batches) for code, ranks in waiting.items() for rank in ranks}
        raise PlanningError(_describe(schedule, next_index, waits))
    return tuple(order)


# An action's code is 3 * (stage * micro_batches + micro_batch), plus the number of its kind. A need of a stage is the
# code for micro-batch 0; adding 3m gives the code for micro-batch m.
_KINDS = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
_Needs = tuple[tuple[int, ...], ...]


def _needs(stages: int, micro_batches: int, producers: Sequence[Sequence[int]] | None) -> tuple[_Needs, _Needs, _Needs]:
    if producers is None:
        producers = [(stage - 1,) if stage else () for stage in range(stages)]
    if len(producers) != stages or any(not 0 <= source < stages for sources in producers for source in sources):
        raise PlanningError(f"producers must give, for each of the {stages} stages, stages below {stages}: {producers}")
    consumers: list[list[int]] = [[] for _ in range(stages)]
    for stage, sources in enumerate(producers):
        for source in sources:
            consumers[source].append(stage)
    row = 3 * micro_batches
    forward = tuple(tuple(row * source for source in sources) for sources in producers)
    backward = tuple((row * stage, *(row * target + 1 for target in consumers[stage])) for stage in range(stages))
    return forward, backward, tuple((row * stage + 1,) for stage in range(stages))


def _decode(code: int, micro_batches: int) -> Action:
    stage, micro_batch = divmod(code // 3, micro_batches)
    return Action(_KINDS[code % 3], stage, micro_batch)


def _describe(schedule: Schedule, next_index: Sequence[int], waits: dict[int, Action]) -> str:
    # Follow who waits for whom from the lowest stuck rank, until a rank comes twice or nobody does what is needed;
    # report the cycle, or the whole chain to what nobody does.
    #
    #   rank 0  F0 [B0] F1 ...     stops before B0, which needs B0 of stage 1, later on rank 1
    #   rank 1  F0 [F1] B0 ...     stops before F1, which needs F1 of stage 0, later on rank 0
    chain: list[str] = []
    place: dict[int, int] = {}  # rank -> its place in the chain
    rank: int | None = min(waits)
    while rank is not None and rank not in place:
        place[rank] = len(chain)
        stuck, need = schedule[rank][next_index[rank]], waits[rank]
        owners = (other for other, actions in enumerate(schedule) if need in actions[next_index[other] :])
        owner = next(owners, None)
        where = "which no rank does" if owner is None else f"which comes later on rank {owner}"
        chain.append(
            f"rank {rank} stops before {stuck} of stage {stuck.stage}, needs {need} of stage {need.stage}, {where}"
        )
        rank = owner
    return "the schedule deadlocks: " + "; ".join(chain if rank is None else chain[place[rank] :])
