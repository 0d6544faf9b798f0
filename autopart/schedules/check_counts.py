"""check_counts: refuse a pipeline without stages or without micro-batches."""

from autopart.errors import PlanningError


def check_counts(stages: int, micro_batches: int) -> None:
    """Raise PlanningError unless there is at least one stage and at least one micro-batch."""
    if stages < 1 or micro_batches < 1:
        raise PlanningError(
            "a pipeline needs at least 1 stage and 1 micro-batch, "
            f"not {stages} stages and {micro_batches} micro-batches"
        )
