"""Fitting: the candidates of points, made only where they are asked for."""

from collections.abc import Callable, Sequence

from autopart.search.candidate import Candidate
from autopart.search.layouts import SPARING
from autopart.search.point import Point

Make = Callable[[Point], Candidate | None]
Cell = tuple[tuple[int, int, int], int]  # degrees and micro-batch


class Fitting:
    """Two rules leave points out, whatever the order in which they are asked for.

    A larger micro-batch needs more memory: it is not tried where nothing fits with the one before. And where memory is
    limited, activations are spared where they do not fit otherwise.
    """

    def __init__(self, points: Sequence[Point], make: Make, limited: bool) -> None:
        self._points, self._make, self._limited = points, make, limited
        self._made: dict[int, Candidate | None] = {}
        self._cells: dict[Cell, list[int]] = {}
        self._before: dict[Cell, Cell] = {}
        self._filled: dict[Cell, bool] = {}
        last: dict[tuple[int, int, int], Cell] = {}
        for number, point in enumerate(points):
            cell = (point.degrees, point.micro_batch)
            if cell not in self._cells:
                self._cells[cell] = []
                if point.degrees in last:
                    self._before[cell] = last[point.degrees]
                last[point.degrees] = cell
            self._cells[cell].append(number)

    @property
    def evaluated(self) -> int:
        """For how many points a candidate was looked for."""
        return len(self._made)

    def candidate(self, number: int) -> Candidate | None:
        """The candidate of a point, or None where it does not fit or is left out."""
        point = self._points[number]
        cell = (point.degrees, point.micro_batch)
        before = self._before.get(cell)
        if before is not None and not self._fills(before):
            return None
        if point.variant == SPARING and self._limited and self._fits_unspared(cell, point.recompute):
            return None
        return self._get(number)

    def _get(self, number: int) -> Candidate | None:
        if number not in self._made:
            self._made[number] = self._make(self._points[number])
        return self._made[number]

    def _fits_unspared(self, cell: Cell, recompute: str) -> bool:
        others = (n for n in self._cells[cell] if self._points[n].variant != SPARING)
        return any(self._get(n) is not None for n in others if self._points[n].recompute == recompute)

    def _fills(self, cell: Cell) -> bool:
        """Whether anything fits with a micro-batch, and with all before it."""
        if cell not in self._filled:
            before = self._before.get(cell)
            # Those of little memory are behind: most probably one of them is enough to know.
            self._filled[cell] = (before is None or self._fills(before)) and any(
                self._get(number) is not None for number in reversed(self._cells[cell])
            )
        return self._filled[cell]
