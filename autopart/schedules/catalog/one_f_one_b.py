"""1F1B: a few warm-up forwards, then one forward and one backward in turn, then the remaining backwards.

Source: Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", 2021 (PipeDream-Flush); Narayanan et al.,
"Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021, section 2.2.1 (the bubble).
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.alternate import alternate
from autopart.schedules.pipeline import Pipeline

NAME = "1f1b"
KINDS = (Kind.FORWARD, Kind.BACKWARD)
VIRTUAL_STAGES = (1, 1)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The 1F1B schedule, stage s on pipeline rank s.

    Of m micro-batches stage s of p keeps min(p - s, m) in flight; with equal stages the devices idle as long as under
    GPipe, (p - 1) / (m + p - 1) of the step.
    """
    # 3 stages, 4 micro-batches, a backward as long as a forward:
    #
    #   rank 0 | F0 F1 F2       B0 F3 B1    B2    B3      2 warm-up forwards, then F2 B0, F3 B1 in turn, then B2 B3
    #   rank 1 |    F0 F1    B0 F2 B1 F3 B2    B3         1 warm-up forward
    #   rank 2 |       F0 B0 F1 B1 F2 B2 F3 B3            none
    micro_batches = range(pipeline.micro_batches)
    return tuple(
        alternate(
            [Action(Kind.FORWARD, stage, m) for m in micro_batches],
            [Action(Kind.BACKWARD, stage, m) for m in micro_batches],
            warm_up=pipeline.ranks - 1 - stage,
        )
        for stage in range(pipeline.ranks)
    )


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most micro-batches in flight: what it warms up with, and one more."""
    return tuple(min(pipeline.ranks - stage, pipeline.micro_batches) for stage in range(pipeline.ranks))


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: its forward and backward pass of one micro-batch."""
    return forward_s + backward_s
