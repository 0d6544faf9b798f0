"""GPipe: all forwards, a flush, then all backwards, newest micro-batch first.

Source: Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", 2019, figure 2c.
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.pipeline import Pipeline

NAME = "gpipe"
KINDS = (Kind.FORWARD, Kind.BACKWARD)
VIRTUAL_STAGES = (1, 1)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The GPipe schedule, stage s on pipeline rank s.

    Every stage keeps all m micro-batches in flight; with equal stages the p devices idle for (p - 1) / (m + p - 1) of
    the step.
    """
    # 3 stages, 4 micro-batches, a backward as long as a forward:
    #
    #   rank 0 | F0 F1 F2 F3             B3 B2 B1 B0
    #   rank 1 |    F0 F1 F2 F3       B3 B2 B1 B0
    #   rank 2 |       F0 F1 F2 F3 B3 B2 B1 B0
    micro_batches = range(pipeline.micro_batches)
    return tuple(
        tuple(Action(Kind.FORWARD, stage, m) for m in micro_batches)
        + tuple(Action(Kind.BACKWARD, stage, m) for m in reversed(micro_batches))
        for stage in range(pipeline.ranks)
    )


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most micro-batches in flight: all."""
    return (pipeline.micro_batches,) * pipeline.ranks


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: its forward and backward pass of one micro-batch."""
    return forward_s + backward_s
