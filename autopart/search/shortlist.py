"""Shortlist: the candidates that may still be chosen or named as runners-up, and what can no longer be one of them."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

from autopart.search.candidate import Candidate

ROUNDING = 1e-9  # relative: the same sums, added in another order

Degrees = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate and the number of its point; less than another one that is to be preferred less.

    By time; among equals by memory, then the simpler degrees.
    """

    candidate: Candidate
    number: int

    @property
    def estimated_s(self) -> float:
        """Seconds a step, by the estimate."""
        return self.candidate.estimated_s

    def __lt__(self, other: "Ranked") -> bool:
        if self.estimated_s != other.estimated_s:
            return self.estimated_s < other.estimated_s
        return self._among_equals < other._among_equals

    @property
    def _among_equals(self) -> tuple[int, ...]:
        own = self.candidate
        return own.peak_bytes, own.tp, own.pp, own.micro_batch, self.number


class Shortlist:
    """Keeps the `length` fastest candidates and the fastest of each set of degrees, of which `others` will be named."""

    def __init__(self, length: int, others: int) -> None:
        self._length, self._others = length, others
        self._ranked: list[Ranked] = []
        self._of_degrees: dict[Degrees, Ranked] = {}
        self._slowest_s = self._slowest_other_s = float("inf")

    @property
    def found(self) -> bool:
        """Whether any was added."""
        return bool(self._ranked)

    @property
    def fastest_s(self) -> float:
        """What the fastest is estimated at; infinite where there is none."""
        return self._ranked[0].estimated_s if self._ranked else float("inf")

    def add(self, candidate: Candidate, number: int) -> None:
        """Take a candidate; among equals the one with the lower `number` is preferred."""
        degrees, own = (candidate.tp, candidate.pp, candidate.dp, candidate.cp), Ranked(candidate, number)
        if own.estimated_s <= self._slowest_s:
            insort(self._ranked, own)
            del self._ranked[self._length :]
            if len(self._ranked) == self._length:
                self._slowest_s = self._ranked[-1].estimated_s
        known = self._of_degrees.get(degrees)
        if known is not None and not own < known:
            return
        self._of_degrees[degrees] = own
        if len(self._of_degrees) > self._others:  # one of them is the winner's
            fastest_of = nsmallest(self._others + 1, (ranked.estimated_s for ranked in self._of_degrees.values()))
            self._slowest_other_s = fastest_of[-1]

    def may_take(self, least_s: float, degrees: Degrees) -> bool:
        """Whether a candidate that takes at least `least_s` may change anything."""
        least_s *= 1 - ROUNDING
        if least_s <= self._slowest_s:
            return True
        known = self._of_degrees.get(degrees)
        return least_s <= self._slowest_other_s and (known is None or least_s <= known.estimated_s)

    def is_closed(self, least_s: float) -> bool:
        """Whether no candidate that takes at least `least_s` can change anything, whatever its degrees."""
        return least_s * (1 - ROUNDING) > max(self._slowest_s, self._slowest_other_s)

    def first(self) -> list[Candidate]:
        """The fastest candidates, in order."""
        return [ranked.candidate for ranked in self._ranked]

    def runners_up(self, winner: Candidate) -> tuple[Candidate, ...]:
        """The fastest of other degrees than the winner's, in order."""
        degrees = (winner.tp, winner.pp, winner.dp, winner.cp)
        others = sorted(own for key, own in self._of_degrees.items() if key != degrees)
        return tuple(ranked.candidate for ranked in others[: self._others])


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate whose schedule, played out, is the fastest; the first among equals.

    A schedule is not played out where `least_step_s` shows that it is slower.
    """
    best: tuple[float, int] | None = None
    for place in sorted(range(len(candidates)), key=lambda place: candidates[place].least_step_s):
        if best is not None and candidates[place].least_step_s * (1 - ROUNDING) > best[0]:
            break
        played = (candidates[place].step_s, place)
        best = played if best is None else min(best, played)
    if best is None:
        raise ValueError("there are no candidates")
    return candidates[best[1]]
