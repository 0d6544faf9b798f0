"""1F1B: a few warm-up forwards, then one forward and one backward in turn, then the remaining backwards.

Source: Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", 2021 (PipeDream-Flush); Narayanan et al.,
"Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021, section 2.2.1 (the bubble).
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.check_counts import check_counts

NAME = "1f1b"


def actions(stages: int, micro_batches: int) -> Schedule:
    """The 1F1B schedule of `stages` stages, stage s on pipeline rank s.

    Stage s keeps min(stages - s, micro_batches) micro-batches in flight; with equal stages the devices idle as long as
    under GPipe, (stages - 1) / (micro_batches + stages - 1) of the step. Raises PlanningError unless both counts are at
    least 1.
    """
    check_counts(stages, micro_batches)
    return tuple(_rank(stage, stages, micro_batches) for stage in range(stages))


def _rank(stage: int, stages: int, micro_batches: int) -> tuple[Action, ...]:
    # 3 stages, 4 micro-batches, a backward as long as a forward:
    #
    #   rank 0 | F0 F1 F2       B0 F3 B1    B2    B3      2 warm-up forwards, then F2 B0, F3 B1 in turn, then B2 B3
    #   rank 1 |    F0 F1    B0 F2 B1 F3 B2    B3         1 warm-up forward
    #   rank 2 |       F0 B0 F1 B1 F2 B2 F3 B3            none
    warm_up = min(stages - 1 - stage, micro_batches)
    steady = micro_batches - warm_up
    forwards = [Action(Kind.FORWARD, stage, m) for m in range(micro_batches)]
    backwards = [Action(Kind.BACKWARD, stage, m) for m in range(micro_batches)]
    turns = [action for pair in zip(forwards[warm_up:], backwards[:steady], strict=True) for action in pair]
    return (*forwards[:warm_up], *turns, *backwards[steady:])
