"""The predicted timeline of a plan: its schedule, played out with the plan's own times."""

from itertools import pairwise

from autopart.ir.plan import PlanData
from autopart.schedules.find import find_schedule
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline


def predicted_timeline(plan: PlanData, micro_batches: int | None = None) -> Timeline:
    """When each rank of the pipeline computes what, in one step of `plan`, the time after the schedule left out.

    Args:
        plan: whose schedule and times.
        micro_batches: how many there are; left out: as many as the plan has.

    Raises:
        UnknownNameError: this version of autopart has no such schedule.
        PlanningError: a number of micro-batches that the schedule cannot take.
    """
    definition = find_schedule(plan.schedule)
    actions = definition(plan.pp, micro_batches or plan.micro_batches, plan.virtual_stages)
    weight_s = [stage.weight_s for stage in plan.stages]
    split = [weight if definition.splits_backward else 0.0 for weight in weight_s]
    return simulate(
        actions,
        [stage.forward_s for stage in plan.stages],
        [stage.backward_s - weight for stage, weight in zip(plan.stages, split, strict=True)],
        [stage.send_s for stage, _ in pairwise(plan.stages)],
        plan.blocking_sends,
        weight_s,
    )
