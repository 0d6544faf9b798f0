"""ZB-H2: no bubble between the first and last action of a rank, for about twice the memory of 1F1B.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, section 2.2.
"""

from autopart.ir.action import Kind, Schedule
from autopart.schedules.delay_weights import delay_weights
from autopart.schedules.pipeline import Pipeline

NAME = "zb-h2"
KINDS = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
VIRTUAL_STAGES = (1, 1)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The ZB-H2 schedule, stage s on pipeline rank s.

    Where F, B and W of p equal stages take the same time, and there are at least 2p - 1 micro-batches, no rank idles
    between its first and last action: (p - 1) (F + B - 2 W) is 0. Each stage holds up to 2p - 1 micro-batches.

    Ranks end as they begin, one after another. A step that ends for all ranks together, with the sum of a gradient norm
    or of the loss, is therefore as long as that of ZB-H1; the paper gains by letting ranks begin the next step.
    """
    # 3 stages, 5 micro-batches:
    #
    #   rank 0 | F0 F1 F2 F3 F4 B0 W0 B1 W1 B2 W2 B3 W3 B4 W4
    #   rank 1 |    F0 F1 F2 B0 F3 B1 F4 B2 W0 B3 W1 B4 W2 W3 W4
    #   rank 2 |       F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 W0 W1 W2 W3 W4
    ranks, micro_batches = pipeline.ranks, pipeline.micro_batches
    return tuple(
        delay_weights(stage, micro_batches, warm_up=2 * (ranks - 1 - stage), delay=2 * stage) for stage in range(ranks)
    )


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most micro-batches in flight: one less than twice the ranks."""
    return (min(2 * pipeline.ranks - 1, pipeline.micro_batches),) * pipeline.ranks


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: section 2.3; never less than it waits for its input."""
    return max(forward_s, forward_s + backward_s - 2 * weight_s)
