"""simulate: how long a schedule takes, given how long its stages and the sends between them take."""

from collections.abc import Sequence
from math import isfinite

from autopart.errors import PlanningError
from autopart.ir.action import Kind, Schedule
from autopart.schedules.execution_order import execution_order
from autopart.schedules.timeline import Span, Timeline


def simulate(
    schedule: Schedule,
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    send_s: Sequence[float],
    exposed: bool = False,
    weight_s: Sequence[float] | None = None,
) -> Timeline:
    """Run a chain of stages through `schedule`; each action starts as soon as its rank is free and its input is there.

    All times are seconds for one micro-batch. `forward_s[s]` and `backward_s[s]` are the compute of stage s. A schedule
    that splits the backward pass needs `weight_s` too: `weight_s[s]` is the part of the weights' gradients, which
    `backward_s[s]` is then without; other schedules do not look at it.
    `send_s[s]` is the transfer between stages s and s + 1, activations one way and gradients the other (one entry fewer
    than stages; 0 where both stages share a rank).

        exposed=False   a send is overlapped: it delays its receiver, and its sender computes on. Sends do not queue for
                        a link, so where send_s exceeds the compute of a stage the result is optimistic.
        exposed=True    the sender computes nothing while it sends (blocking sends), so its sends queue too. The spans
                        hold compute only: time spent sending counts as bubble.

    One pass, O(actions). Raises PlanningError if the schedule deadlocks, or if the times are not finite, not
    non-negative, or not one for each stage. For a proof that the schedule does all the work see `validate`.
    """
    stages = 1 + max((action.stage for actions in schedule for action in actions), default=-1)
    micro_batches = 1 + max((action.micro_batch for actions in schedule for action in actions), default=-1)
    _check_times("forward_s", forward_s, stages)
    _check_times("backward_s", backward_s, stages)
    _check_times("send_s", send_s, max(stages - 1, 0))
    if weight_s is not None:
        _check_times("weight_s", weight_s, stages)
    elif any(action.kind is Kind.WEIGHT for actions in schedule for action in actions):
        raise PlanningError("the schedule splits the backward pass: give weight_s, the time of the weights' gradients")

    #   stage s      ──F──┐                       ┌──B──    F(s) starts at   arrival of F(s - 1)
    #                     └ send_s[s]  send_s[s] ─┘         B(s) starts at   arrival of B(s + 1)
    #   stage s + 1             └──F── ... ──B──┘           or when the rank is free, if that is later
    #
    # The input of F(s, m) arrives at forward_arrival_s[s][m], that of B(s, m) at backward_arrival_s[s + 1][m].
    forward_arrival_s = [[0.0] * micro_batches for _ in range(stages + 1)]
    backward_arrival_s = [[0.0] * micro_batches for _ in range(stages + 1)]
    weights_s = weight_s or ()
    free_s = [0.0] * len(schedule)
    spans: list[list[Span]] = [[] for _ in schedule]
    nowhere = [0.0] * micro_batches  # nobody waits for gradients of weights
    sends = (0.0, *send_s, 0.0)  # sends[s]: between s - 1 and s; nothing is before the first stage, or after the last
    for rank, action in execution_order(schedule):
        stage, micro_batch = action.stage, action.micro_batch
        if action.kind is Kind.FORWARD:
            arrived_s = forward_arrival_s[stage][micro_batch]
            compute_s, transfer_s, arrivals = forward_s[stage], sends[stage + 1], forward_arrival_s[stage + 1]
        elif action.kind is Kind.BACKWARD:
            arrived_s = backward_arrival_s[stage + 1][micro_batch]
            compute_s, transfer_s, arrivals = backward_s[stage], sends[stage], backward_arrival_s[stage]
        else:
            arrived_s, compute_s, transfer_s, arrivals = 0.0, weights_s[stage], 0.0, nowhere
        start_s = free_s[rank]
        if arrived_s > start_s:
            start_s = arrived_s
        end_s = start_s + compute_s
        arrivals[micro_batch] = end_s + transfer_s
        free_s[rank] = end_s + transfer_s if exposed else end_s
        spans[rank].append(Span(action, start_s, end_s))
    return Timeline(tuple(tuple(rank_spans) for rank_spans in spans))


def _check_times(name: str, times_s: Sequence[float], count: int) -> None:
    if len(times_s) != count:
        raise PlanningError(f"{name} has {len(times_s)} entries; this schedule needs {count}")
    for index, time_s in enumerate(times_s):
        if not (isfinite(time_s) and time_s >= 0):
            raise PlanningError(f"{name}[{index}] is {time_s}; a time must be finite and not negative")
