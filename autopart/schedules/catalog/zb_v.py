"""ZB-V: two stages a rank, laid out as a V, leave no bubble in the memory of 1F1B.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, section 6; the V-shape is generalised in Qi et al.,
"Pipeline Parallelism with Controllable Memory", 2024, where this schedule is called V-ZB.
"""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.pipeline import Pipeline

NAME = "zb-v"
KINDS = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
VIRTUAL_STAGES = (2, 2)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The ZB-V schedule: rank r of p has the stages r, on the way down, and 2p - 1 - r, on the way up.

    The first rank thus has the last stage too, and can begin the backward pass of a micro-batch as soon as its forward
    pass has come back. Where F, B and W of all stages take the same time, and there are at least 2p - 1 micro-batches,
    no rank idles between its first and last action. A rank holds 2p stages' micro-batches, as much memory as p of
    1F1B's stages, which are twice as large.
    """
    return tuple(_rank(rank, pipeline.ranks, pipeline.micro_batches) for rank in range(pipeline.ranks))


def in_flight(pipeline: Pipeline) -> tuple[int, ...]:
    """For each rank, the most passes in flight: both stages of as many micro-batches as there are ranks; with few
    micro-batches, all of them on the way down, and on the way up those that came back by then.
    """
    ranks, count = pipeline.ranks, pipeline.micro_batches
    return tuple(min(2 * ranks, 2 * count, count + 1 + rank) for rank in range(ranks))


def _rank(rank: int, ranks: int, micro_batches: int) -> tuple[Action, ...]:
    # 2 ranks, 4 micro-batches; capitals for the stage of a rank on the way down, small letters for that on the way up:
    #
    #   rank 0 | F0 F1 F2 f0 b0 w0 f1 b1 w1 F3 B0 W0 f2 b2 w2 B1 W1 f3 b3 w3 B2 W2 B3 W3
    #   rank 1 |    F0 f0 F1 f1 b0 w0 F2 B0 W0 f2 b1 w1 F3 B1 W1 f3 b2 w2 B2 b3 B3 W2 w3 W3
    below = ranks - rank  # the rank itself, and those after it
    passes = "F" * (2 * below - 1) + "fF" * rank + "fbw" * below  # until the first of B could be here
    # A rank's first actions are the same however many micro-batches follow; those that there are not are left out.
    enough = max(micro_batches, 2 * ranks - 1)
    passes += "FBWfbw" * (enough - 2 * ranks + 1 + rank) + "BWfbw" * (below - 1)  # until the forwards are done
    passes += "Bb" * rank + "BW" * below + "w" * rank + "W" * rank
    stages = {letter: rank if letter.isupper() else 2 * ranks - 1 - rank for letter in "FBWfbw"}
    every = {
        letter: iter([Action(Kind(letter.upper()), stage, m) for m in range(micro_batches)])
        for letter, stage in stages.items()
    }
    found = (next(every[letter], None) for letter in passes)
    return tuple([action for action in found if action is not None])


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: it waits for the forward pass of half of a rank's."""
    return max(forward_s, forward_s + backward_s - 2 * weight_s) / virtual_stages
