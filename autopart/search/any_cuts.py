"""least_of_any_cuts_s: what the step of a point does not take less than, however its stages are cut."""

from autopart.estimate.recompute import BY_LAYER
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate


def least_of_any_cuts_s(candidate: Candidate) -> float:
    """A bound from a candidate whose cuts make the slowest stage as fast as memory allows.

    With any cuts some stage takes that long for both passes of a micro-batch, x = f + b, and it has m of them. Where
    every rank has one stage and a backward pass is one piece, it has done at most n forward passes, n being as many as
    the first rank may have in flight, when the gradients of the first micro-batch reach it; until then all stages have
    passed it forward and those behind have passed it back, and those before do so after the stage's own last one: they
    all take T. So m - 1 backward and m - n forward passes come besides,

        step >= T + (m - 1) b + (m - n) f >= T + ((m - 1) - (n - 1) f/x) x

    with the largest share f/x of any unit. Other cuts may need less recomputation, so T is taken without what was
    chosen layer by layer. On devices of several kinds T depends on the cuts, and the first bound stays.
    """
    if candidate.virtual_stages > 1:  # ranks have several stages
        return 0.0
    # Under ZeRO-3 a stage does not take the sum of its units' times, but no less than what it computes.
    passes_s = candidate.computing_s if candidate.keeping.zero >= 3 else (candidate.forward_s, candidate.backward_s)
    both_s = [f + b for f, b in zip(*passes_s, strict=True)]
    slowest_s, count = max(both_s), candidate.micro_batches
    least_s = count * slowest_s
    if candidate.one_kind and find_schedule(candidate.schedule).kinds == (Kind.FORWARD, Kind.BACKWARD):
        chosen = candidate.point.recompute == BY_LAYER
        fixed = [(c.forward_s, c.forward_s + c.backward_s + (0.0 if chosen else c.again_s)) for c in candidate.costs]
        shares = [f / x for f, x in fixed if x > 0]
        all_s = sum(both_s) - (candidate.pace * sum(c.again_s for c in candidate.costs) if chosen else 0.0)
        flying = min(count, max(candidate.in_flight))
        besides = (count - 1) - (flying - 1) * max(shares, default=1.0)
        least_s = max(least_s, all_s + max(0.0, besides) * slowest_s)
    return least_s
