"""rank_peaks: how many passes every rank of a schedule has in flight at its peak, without writing a long one out."""

from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.schedules.pipeline import Pipeline

STEADY = 4  # a pipeline is filled long before four micro-batches a stage


def rank_peaks(schedule: str, stages: int, micro_batches: int, virtual_stages: int = 1) -> tuple[int, ...]:
    """For each rank of a schedule, the most passes through its stages whose activations are still needed.

    Raises PlanningError for counts that the schedule cannot take. Of a long schedule two short ones are looked at: from
    there on a peak stays, or grows evenly.
    """
    definition = find_schedule(schedule)
    definition.check(stages, micro_batches, virtual_stages)
    if definition.in_flight is not None:
        return definition.in_flight(Pipeline(stages, micro_batches, virtual_stages))
    short = STEADY * stages * virtual_stages + micro_batches % stages
    if micro_batches <= short + stages:
        return _counted_peaks(schedule, stages, micro_batches, virtual_stages)
    counts = (short, short + stages)
    before, after = (_counted_peaks(schedule, stages, count, virtual_stages) for count in counts)
    rounds = (micro_batches - short) // stages
    return tuple(a + (b - a) * rounds for a, b in zip(before, after, strict=True))


def _counted_peaks(schedule: str, stages: int, micro_batches: int, virtual_stages: int) -> tuple[int, ...]:
    definition = find_schedule(schedule)
    last = definition.kinds[-1]
    peaks = []
    for actions in definition(stages, micro_batches, virtual_stages):
        flying = peak = 0
        for action in actions:
            flying += action.kind is Kind.FORWARD
            peak = max(peak, flying)
            flying -= action.kind is last
        peaks.append(peak)
    return tuple(peaks)
