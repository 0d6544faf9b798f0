"""Fitting: the candidates of points, made only where they are asked for."""

from collections.abc import Callable, Sequence

from autopart.estimate.recompute import BY_LAYER, NONE
from autopart.search.candidate import Candidate
from autopart.search.layouts import SPARING
from autopart.search.point import Point

Make = Callable[[Point], Candidate | None]
Repeats = Callable[[Point], bool]


class Fitting:
    """Where memory is limited, layouts spare activations only where others do not fit, or only when recomputed.

    A point `repeats` an earlier one where its layout has come out the same.
    """

    def __init__(self, points: Sequence[Point], make: Make, limited: bool, repeats: Repeats) -> None:
        self._points, self._make, self._limited, self._repeats = points, make, limited, repeats
        self._made: dict[Point, Candidate | None] = {}
        self._variants: dict[Point, list[Point]] = {}
        for point in points if limited else ():
            if point.variant != SPARING:
                self._variants.setdefault(point._replace(variant=SPARING), []).append(point)

    @property
    def evaluated(self) -> int:
        """For how many points a candidate was looked for."""
        return len(self._made)

    def candidate(self, number: int) -> Candidate | None:
        """The candidate of a point, or None where it does not fit or is left out."""
        point = self._points[number]
        others = self._variants.get(point, ()) if point.variant == SPARING else ()
        if any(self._fits_whole(other) for other in others if not self._repeats(other)):
            return None
        return self._get(point)

    def _fits_whole(self, point: Point) -> bool:
        """Whether a point fits, as it is asked for or, where that is to be chosen, without recomputation."""
        own = self._get(point)
        return own is not None and (point.recompute != BY_LAYER or own.recompute == NONE)

    def _get(self, point: Point) -> Candidate | None:
        if point not in self._made:
            self._made[point] = self._make(point)
        return self._made[point]
