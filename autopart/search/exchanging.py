"""Exchanging: what passes of stages take at the least with what replicas exchange in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopart.search.stage_costs import StageCosts

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Exchanging:
    """Of stages of one chain of units, where ZeRO-2 or 3 makes passes longer than what their units compute.

    Attributes:
        table: what stages cost.
        kinds: how every unit is recomputed in any case.
    """

    table: StageCosts
    kinds: Sequence[str]
    _known: dict[tuple[int, float], tuple[float, float]] = field(default_factory=dict)  # by the identity of a stage

    def prolonged(self, start: int, stop: int, busy_s: Matrix) -> tuple[Matrix, Matrix]:
        """Seconds of the forward pass, and of both at the least, of stages that compute `busy_s` in both.

        Args:
            start: the unit of the first row.
            stop: the unit behind a stage of the first column.
            busy_s: for the first unit (row) and the first one behind (column); infinite where there is no stage.
        """
        forward_s, least_s = np.zeros_like(busy_s), np.full_like(busy_s, np.inf)
        for row, column in np.argwhere(np.isfinite(busy_s)).tolist():
            span = start + row, stop + column
            forward_s[row, column], least_s[row, column] = self._passes_s(span, float(busy_s[row, column]))
        return forward_s, least_s

    def _passes_s(self, span: tuple[int, int], busy_s: float) -> tuple[float, float]:
        stage = self.table.of((span,), self.kinds)
        key = id(stage), busy_s  # the table holds the stage
        if key not in self._known:
            forward_s, _ = stage.computing_s
            least_s = stage.replicas.least_paced_s(stage.units, forward_s, busy_s - forward_s)
            self._known[key] = stage.forward_s, max(least_s, stage.forward_s + stage.backward_s)
        return self._known[key]
