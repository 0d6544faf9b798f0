"""makespan_s: how long a schedule takes; `simulate` says besides what is when."""

from collections.abc import Sequence

from autopart.ir.action import Kind, Schedule
from autopart.schedules.simulate import simulate


def makespan_s(
    schedule: Schedule,
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    send_s: Sequence[float],
    exposed: bool = False,
    weight_s: Sequence[float] | None = None,
) -> float:
    """Seconds until the last action of `schedule` ends: `simulate(...).step_s` to the last bit, in a fifth of the time.

    The arguments are those of `simulate`. Each rank goes on until an input of it has not been made yet, and again once
    others have.

    Raises:
        PlanningError: as `simulate`.
    """
    stages = len(forward_s)
    micro_batches = 1 + max((action.micro_batch for actions in schedule for action in actions), default=-1)
    sends = (0.0, *send_s, 0.0)
    weights_s = weight_s or (0.0,) * stages
    unknown = -1.0
    # As in `simulate`: when the input of F(s, m), and that of B(s, m) from stage s + 1, arrives.
    forward_arrival_s = [[unknown] * micro_batches for _ in range(stages + 1)]
    backward_arrival_s = [[unknown] * micro_batches for _ in range(stages + 1)]
    forward_arrival_s[0] = [0.0] * micro_batches
    backward_arrival_s[stages] = [0.0] * micro_batches
    free_s, end_s = [0.0] * len(schedule), [0.0] * len(schedule)
    place = [0] * len(schedule)
    left = sum(map(len, schedule))
    forward, backward = Kind.FORWARD, Kind.BACKWARD
    while left:
        before = left
        for rank, actions in enumerate(schedule):
            now, index, count = free_s[rank], place[rank], len(actions)
            while index < count:
                action = actions[index]
                stage, micro_batch = action.stage, action.micro_batch
                if action.kind is forward:
                    arrived_s = forward_arrival_s[stage][micro_batch]
                    compute_s, transfer_s, arrivals = forward_s[stage], sends[stage + 1], forward_arrival_s[stage + 1]
                elif action.kind is backward:
                    arrived_s = backward_arrival_s[stage + 1][micro_batch]
                    compute_s, transfer_s, arrivals = backward_s[stage], sends[stage], backward_arrival_s[stage]
                else:
                    now = end_s[rank] = now + weights_s[stage]
                    index += 1
                    continue
                if arrived_s < 0.0:
                    break
                end = (arrived_s if arrived_s > now else now) + compute_s
                arrivals[micro_batch] = end + transfer_s
                end_s[rank] = end
                now = end + transfer_s if exposed else end
                index += 1
            left -= index - place[rank]
            free_s[rank], place[rank] = now, index
        if left == before:  # it says who waits for whom
            return simulate(schedule, forward_s, backward_s, send_s, exposed, weight_s).step_s
    return max(end_s, default=0.0)
