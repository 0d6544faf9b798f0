"""polished: cuts that the dynamic program found for the slowest stage, made better for the step as it is played out."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from autopart.search.candidate import Candidate

MOST_ROUNDS = 32

Recut = Callable[[Candidate, tuple[int, ...]], Candidate]


def polished(candidate: Candidate, limit_bytes: float, below_s: float, recut: Recut) -> Candidate:
    """The candidate, or one with other cuts whose step, played out, takes less, and less than `below_s`.

    One unit at a time goes from a stage of the busiest rank to any other stage, all cuts between them moving with it, as
    long as the step gets shorter. A schedule is played out only where `least_step_s` does not show that it does not.

    Args:
        candidate: with the cuts to begin with.
        limit_bytes: all that a device has; no stage may need more.
        below_s: cuts that take longer are of no use.
        recut: a candidate with other cuts.
    """
    best = candidate
    for _ in range(MOST_ROUNDS):
        target_s = min(best.step_s, below_s)
        tried = [recut(best, cuts) for cuts in _moved(best)]
        for other in sorted(tried, key=lambda own: own.least_step_s):
            if other.least_step_s >= target_s:
                return best
            if other.peak_bytes <= limit_bytes and other.step_s < target_s:
                best = other
                break
        else:
            return best
    return best


def _moved(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """The cuts after every move of a unit from a stage of the busiest rank to another stage."""
    seconds = [sum(times) for times in zip(candidate.forward_s, candidate.backward_s, strict=True)]
    busiest = max(candidate.homes, key=lambda own: sum(seconds[index] for index in own))
    bounds = [0, *candidate.cuts, len(candidate.costs)]
    for giver in busiest:
        for taker in range(len(seconds)):
            low, high = min(giver, taker), max(giver, taker)
            by = 1 if taker < giver else -1
            cuts = [cut + by if low <= place < high else cut for place, cut in enumerate(candidate.cuts)]
            if taker != giver and all(one < other for one, other in pairwise([bounds[0], *cuts, bounds[-1]])):
                yield tuple(cuts)
