"""ZB-H1: 1F1B with the weight gradients put off to fill the bubble, in the memory of 1F1B.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, section 2.1.
"""

from autopart.ir.action import Kind, Schedule
from autopart.schedules.delay_weights import delay_weights
from autopart.schedules.pipeline import Pipeline

NAME = "zb-h1"
KINDS = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
VIRTUAL_STAGES = (1, 1)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The ZB-H1 schedule, stage s on pipeline rank s.

    Where F, B and W of p equal stages take the same time, at least p micro-batches make the first rank, whose bubble is
    the largest, idle for (p - 1) (F + B - W), a third of the bubble of 1F1B. Stage s holds p - s micro-batches before
    their B, as under 1F1B, and s after it: min(p, m) on every stage, as much as 1F1B has on its first.
    """
    # 3 stages, 4 micro-batches:
    #
    #   rank 0 | F0 F1 F2       B0 W0 F3 B1 W1 B2 W2 B3 W3
    #   rank 1 |    F0 F1    B0 F2 B1 W0 F3 B2 W1 B3 W2 W3
    #   rank 2 |       F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3
    ranks, micro_batches = pipeline.ranks, pipeline.micro_batches
    return tuple(delay_weights(stage, micro_batches, warm_up=ranks - 1 - stage, delay=stage) for stage in range(ranks))


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most micro-batches in flight: as many as there are ranks."""
    return (min(pipeline.ranks, pipeline.micro_batches),) * pipeline.ranks


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: section 2.3; never less than it waits for its input."""
    return max(forward_s, forward_s + backward_s - weight_s)
