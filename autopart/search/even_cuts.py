"""even_cuts: the cuts whose slowest stage is fastest, by dynamic programming over what stages take."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9


def even_cuts(firsts: Sequence[int], tables: Sequence[NDArray[np.float64]], most_s: float) -> tuple[int, ...] | None:
    """The cuts of the chain of stages, from the first unit to the last, whose slowest stage is fastest.

    Among such chains that of the most even one, whose squared durations add up to least.

    Args:
        firsts: for each stage the number of the unit that the first row of its table is of.
        tables: for each stage its seconds, by its first unit (row) and the next stage's (column); infinite where there
            can be no such stage. The first one has one row, the last one column. They are changed.
        most_s: chains with slower stages need not be found.

    Returns:
        The first units of the second and later stages; None if no chain has stages of at most `most_s`.
    """
    best = np.zeros(1)
    for table in tables:
        if not table.size:
            return None
        best = np.maximum(best[:, None], table).min(axis=0)
    slowest = best[0] * (1 + ROUNDING)
    if not slowest <= most_s * (1 + 2 * ROUNDING):
        return None
    best, choices = np.zeros(1), []
    for table in tables:
        table[table > slowest] = np.inf
        joined = best[:, None] + table**2
        choices.append(joined.argmin(axis=0))
        best = joined.min(axis=0)
    cuts, place = [], 0
    for first, choice in zip(reversed(firsts), reversed(choices), strict=True):
        place = int(choice[place])
        cuts.append(first + place)
    return tuple(reversed(cuts[:-1]))
