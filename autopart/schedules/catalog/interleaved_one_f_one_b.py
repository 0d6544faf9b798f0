"""Interleaved 1F1B: a rank has several stages, so that a pipeline is filled and drained by smaller pieces of work.

Source: Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021,
section 2.2.2; the number of warm-up forwards is that of Megatron-LM.
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.alternate import alternate
from autopart.schedules.pipeline import Pipeline
from autopart.schedules.rounds import rounds

NAME = "interleaved-1f1b"
KINDS = (Kind.FORWARD, Kind.BACKWARD)
VIRTUAL_STAGES = (2, None)
WHOLE_ROUNDS = True


def actions(pipeline: Pipeline) -> Schedule:
    """The interleaved 1F1B schedule, stage s on pipeline rank s % p.

    With v equal stages on each of p ranks, the devices idle for (p - 1) / (v m + p - 1) of the step. Rank r holds
    2 (p - 1 - r) + (v - 1) p + 1 stages' micro-batches at once (v m, if that is less): on rank 0 a share of (p - 1) /
    (p v) more memory than under 1F1B (Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
    Models", 2022, section 4.2.3).

    As in the paper, there must be a multiple of p micro-batches.
    """
    # 2 ranks of 2 stages, 4 micro-batches. F01 is of micro-batch 0 on the rank's second stage:
    #
    #   rank 0 | F00 F10 F01 F11 F20 B01 F30 B11 F21 B00 F31 B10 B21 B31 B20 B30
    #   rank 1 | F00 F10 F01 B01 F11 B11 F20 B00 F30 B10 F21 B21 F31 B31 B20 B30
    ranks, virtual = pipeline.ranks, pipeline.virtual_stages
    order = rounds(pipeline)
    return tuple(
        alternate(
            [Action(Kind.FORWARD, chunk * ranks + rank, m) for chunk, m in order],
            [Action(Kind.BACKWARD, (virtual - 1 - chunk) * ranks + rank, m) for chunk, m in order],
            warm_up=2 * (ranks - 1 - rank) + (virtual - 1) * ranks,
        )
        for rank in range(ranks)
    )


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most passes in flight: what it warms up with, and one more."""
    ranks, virtual = pipeline.ranks, pipeline.virtual_stages
    every = virtual * pipeline.micro_batches
    return tuple(min(2 * (ranks - 1 - rank) + (virtual - 1) * ranks + 1, every) for rank in range(ranks))


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: the passes of one of its stages."""
    return (forward_s + backward_s) / virtual_stages
