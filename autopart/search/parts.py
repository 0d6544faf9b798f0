"""Parts: what the seconds of a candidate's step are spent on."""

from autopart.ir.action import Kind
from autopart.ir.prediction import Parts
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate

ROUNDING = 1e-9


def parts(candidate: Candidate) -> Parts:
    """Where the time goes, in the mean over the ranks of the pipeline; the sum is `step_s`.

    A rank is busy for its passes over all micro-batches; what is left until the last rank is done, it waits.
    """
    costs, paced_s = candidate.costs, candidate.paced_s
    backward = Kind.BACKWARD in find_schedule(candidate.schedule).kinds
    computed_s = paced_s(cost.forward_s for cost in costs)
    products_s = paced_s(cost.products.forward_s for cost in costs)
    communication_s = paced_s(cost.communication_forward_s for cost in costs)
    recompute_s, busy_s = 0.0, sum(candidate.forward_s)
    if backward:
        computed_s += paced_s(cost.backward_s for cost in costs)
        products_s += paced_s(cost.products.backward_s for cost in costs)
        communication_s += paced_s(cost.communication_s - cost.communication_forward_s for cost in costs)
        recompute_s = paced_s(cost.again_s for cost in costs)
        busy_s += sum(candidate.backward_s)
    passes = candidate.micro_batches / candidate.pp  # of all stages, in the mean over ranks
    gathers_s = busy_s - computed_s - recompute_s
    gradients_s, optimizer_s = candidate.tails_s
    return Parts(
        products_s=passes * products_s,
        kernels_s=passes * (computed_s - products_s - communication_s),
        recompute_s=passes * recompute_s,
        communication_s=passes * communication_s,
        gathers_s=passes * gathers_s if gathers_s > ROUNDING * busy_s else 0.0,
        waiting_s=candidate.step_s - candidate.tail_s - passes * busy_s,
        gradients_s=gradients_s,
        optimizer_s=optimizer_s,
    )
