"""GPipe: all forwards, a flush, then all backwards, newest micro-batch first.

Source: Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", 2019, figure 2c.
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.check_counts import check_counts

NAME = "gpipe"


def actions(stages: int, micro_batches: int) -> Schedule:
    """The GPipe schedule of `stages` stages, stage s on pipeline rank s.

    Every stage keeps all `micro_batches` micro-batches in flight; with equal stages the devices idle for
    (stages - 1) / (micro_batches + stages - 1) of the step. Raises PlanningError unless both counts are at least 1.
    """
    # 3 stages, 4 micro-batches, a backward as long as a forward:
    #
    #   rank 0 | F0 F1 F2 F3             B3 B2 B1 B0
    #   rank 1 |    F0 F1 F2 F3       B3 B2 B1 B0
    #   rank 2 |       F0 F1 F2 F3 B3 B2 B1 B0
    check_counts(stages, micro_batches)
    return tuple(
        tuple(Action(Kind.FORWARD, stage, m) for m in range(micro_batches))
        + tuple(Action(Kind.BACKWARD, stage, m) for m in reversed(range(micro_batches)))
        for stage in range(stages)
    )
