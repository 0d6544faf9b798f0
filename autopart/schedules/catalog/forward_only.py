"""Forward only: for evaluation. Nothing is kept, and nothing comes back."""

from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.pipeline import Pipeline
from autopart.schedules.rounds import rounds

NAME = "forward-only"
KINDS = (Kind.FORWARD,)
VIRTUAL_STAGES = (1, None)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """Every micro-batch once through all stages, stage s on pipeline rank s % p.

    With v equal stages on each of p ranks, and m micro-batches, a multiple of p where v > 1, the devices idle for
    (p - 1) / (v m + p - 1) of the step.
    """
    order = rounds(pipeline)
    return tuple(
        tuple(Action(Kind.FORWARD, chunk * pipeline.ranks + rank, m) for chunk, m in order)
        for rank in range(pipeline.ranks)
    )


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: the forward pass of one of its stages."""
    return forward_s / virtual_stages
