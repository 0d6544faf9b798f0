"""forward_passes: evaluation on stages that are where training has them."""

from collections.abc import Sequence
from itertools import product

from autopart.ir.action import Action, Kind, Schedule


def forward_passes(homes: Sequence[int], micro_batches: int) -> Schedule:
    """Every micro-batch once through all stages, stage s on pipeline rank `homes[s]`.

    As many micro-batches as there are ranks go through a stage before more enter; with stage s on rank s % p that is
    the schedule `forward-only`. Whatever the homes, all ranks follow one order, in which a stage comes after those
    before it, so no rank waits for one that waits for it.
    """
    ranks = max(homes) + 1
    passes = product(range(len(homes)), range(micro_batches))
    order = sorted((micro_batch // ranks, stage, micro_batch) for stage, micro_batch in passes)
    return tuple(
        tuple(Action(Kind.FORWARD, stage, micro_batch) for _, stage, micro_batch in order if homes[stage] == rank)
        for rank in range(ranks)
    )
