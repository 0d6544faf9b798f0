"""PointOrder: the points of a search in the order of a bound, priced only when their turn comes."""

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

Group = tuple[int, int, int]


class PointOrder:
    """Numbers of points, the one with the least bound first; the lower number among equals.

    Points of one cp, tp and micro-batch are a group. Its bound, that none of its points is below, is known without
    pricing these, so that groups whose turn never comes are not priced.

    Args:
        groups: of points.
        least_s: the bound of a group.
        bounds: prices a group: the bounds of its points, and their numbers.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        least_s: Callable[[Group], float],
        bounds: Callable[[Group], Iterable[tuple[float, int]]],
    ) -> None:
        self._bounds = bounds
        self._closed = [(least_s(group), place, group) for place, group in enumerate(groups)]
        heapify(self._closed)
        self._open: list[tuple[float, int]] = []
        self._known: list[tuple[float, int]] = []

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Bounds and numbers, as often as they are asked for."""
        place = 0
        while place < len(self._known) or self._go_on():
            yield self._known[place]
            place += 1

    def _go_on(self) -> bool:
        """Look for one more; whether there was one."""
        while self._closed and (not self._open or self._closed[0][0] <= self._open[0][0]):
            least_s, _, group = heappop(self._closed)
            for bound_s, number in self._bounds(group):
                heappush(self._open, (max(least_s, bound_s), number))
        if self._open:
            self._known.append(heappop(self._open))
            return True
        return False
