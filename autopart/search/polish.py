"""polished: cuts that the dynamic program found for the slowest stage, made better for the step as it is played out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from math import comb

from autopart.search.candidate import Candidate

MOST_ROUNDS = 8
FEW = 150  # ways to cut, that are all looked at

Recut = Callable[[Candidate, tuple[int, ...]], Candidate]


def with_cuts(candidate: Candidate, cuts: tuple[int, ...]) -> Candidate:
    """The candidate with other cuts, each unit recomputed as it is."""
    return replace(candidate, cuts=cuts)


def polished(candidate: Candidate, limit_bytes: float, below_s: float, recut: Recut = with_cuts) -> Candidate:
    """The candidate, or one with other cuts whose step, played out, takes less, and less than `below_s`.

    Where there are few ways to cut, these are the best of all. Else one unit at a time goes from a stage of the busiest
    rank to any other stage, all cuts between them moving with it, as long as the step gets shorter. A schedule is
    played out only where `least_step_s` does not show that it is slower.

    Args:
        candidate: with the cuts to begin with.
        limit_bytes: all that a device has; no stage may need more.
        below_s: cuts that take longer are of no use.
        recut: gives a candidate other cuts, and what they ask for.
    """
    best, stages = candidate, len(candidate.stages)
    places = [place for place, cost in enumerate(candidate.table.costs[:-1], start=1) if cost.cut_behind]
    if comb(len(places), stages - 1) <= FEW:
        every = _trained(recut(best, cuts) for cuts in combinations(places, stages - 1))
        while (other := _first(every, limit_bytes, min(best.step_s, below_s))) is not None:
            best = other
        return best
    for _ in range(MOST_ROUNDS):
        other = _first(_trained(recut(best, cuts) for cuts in _moved(best)), limit_bytes, min(best.step_s, below_s))
        if other is None:
            break
        best = other
    return best


def _trained(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [own for own in candidates if own.trains_everywhere]


def _first(tried: Sequence[Candidate], limit_bytes: float, below_s: float) -> Candidate | None:
    """One of those that fit whose step takes less than `below_s`, the most promising first; None if there is none."""
    for own in sorted(tried, key=lambda own: own.least_step_s):
        if own.least_step_s >= below_s:
            return None
        if own.fits(limit_bytes) and own.step_s < below_s:
            return own
    return None


def _moved(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """The cuts after every move of a unit from a stage of the busiest rank to another stage."""
    seconds = [sum(times) for times in zip(candidate.forward_s, candidate.backward_s, strict=True)]
    busiest = max(candidate.homes, key=lambda own: sum(seconds[index] for index in own))
    bounds = [0, *candidate.cuts, len(candidate.table.costs)]
    for giver in busiest:
        for taker in range(len(seconds)):
            low, high = min(giver, taker), max(giver, taker)
            by = 1 if taker < giver else -1
            cuts = [cut + by if low <= place < high else cut for place, cut in enumerate(candidate.cuts)]
            possible = all(candidate.table.costs[cut - 1].cut_behind for cut in cuts)
            if possible and taker not in busiest and all(a < b for a, b in pairwise([bounds[0], *cuts, bounds[-1]])):
                yield tuple(cuts)
