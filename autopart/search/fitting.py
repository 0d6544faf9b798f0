"""Fitting: the candidates of points, made only where they are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from autopart.search.candidate import Candidate
from autopart.search.layouts import SPARING
from autopart.search.point import Point

Make = Callable[[Point], Candidate | None]


class Fitting:
    """Where memory is limited, activations are spared only where they do not fit otherwise."""

    def __init__(self, points: Sequence[Point], make: Make, limited: bool) -> None:
        self._points, self._make, self._limited = points, make, limited
        self._made: dict[Point, Candidate | None] = {}
        self._variants: dict[Point, list[Point]] = {}
        for point in points if limited else ():
            if point.variant != SPARING:
                self._variants.setdefault(replace(point, variant=SPARING), []).append(point)

    @property
    def evaluated(self) -> int:
        """For how many points a candidate was looked for."""
        return len(self._made)

    def candidate(self, number: int) -> Candidate | None:
        """The candidate of a point, or None where it does not fit or is left out."""
        point = self._points[number]
        if point.variant == SPARING and any(self._get(other) is not None for other in self._variants.get(point, ())):
            return None
        return self._get(point)

    def _get(self, point: Point) -> Candidate | None:
        if point not in self._made:
            self._made[point] = self._make(point)
        return self._made[point]
