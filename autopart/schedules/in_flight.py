"""peak_in_flight: how much of a step every rank of a schedule holds at its peak."""

from collections.abc import Sequence

from autopart.ir.action import Kind, Schedule


def peak_in_flight(schedule: Schedule, sizes: Sequence[float] | None = None) -> tuple[float, ...]:
    """For each rank, the most that the micro-batches between their forward and last pass take at once.

    A stage holds a micro-batch from the start of its forward to the end of its last pass on that stage: of the weights'
    gradients where the backward is split, which needs what the forward kept; of the forward itself where nothing comes
    back. `sizes[s]` is what stage s holds of one; left out, they are counted, over all stages of a rank.
    """
    every = {action.kind for actions in schedule for action in actions}
    last = next((kind for kind in (Kind.WEIGHT, Kind.BACKWARD, Kind.FORWARD) if kind in every), Kind.FORWARD)
    peaks = []
    for actions in schedule:
        held = peak = 0.0
        for action in actions:
            size = 1.0 if sizes is None else sizes[action.stage]
            if action.kind is Kind.FORWARD:
                held += size
                peak = max(peak, held)
            if action.kind is last:
                held -= size
        peaks.append(peak)
    return tuple(peaks)
