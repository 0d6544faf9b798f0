"""The pipeline search: where to cut a chain of units into stages, exactly, by dynamic programming."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost


def search_cuts(
    costs: Sequence[UnitCost],
    stages: int,
    in_flight: Sequence[int],
    limit_bytes: float,
    recompute: bool,
    state_copies: float,
    allowed: Sequence[int] | None = None,
) -> tuple[int, ...] | None:
    """The cuts that make the slowest stage fastest, and among those the other stages too; None if none fits.

        best[s][j] = min over i of max(best[s-1][i], time(i, j))     for i <= j, memory(s, i, j) <= limit

    Args:
        costs: of the units.
        stages: how many stages.
        in_flight: for each stage, the most micro-batches in flight.
        limit_bytes: what tensors can have of a device.
        recompute: whether runs of loops are computed again.
        state_copies: bytes of parameters, gradients and optimizer for each byte of parameters.
        allowed: cut only before these units; left out, before any.

    Returns:
        The indices of the units that begin the second and later stages.
    """
    count = len(costs)
    if stages > count:
        return None
    forward = _prefix([cost.forward_s for cost in costs])
    again = _prefix([cost.forward_s if cost.input_bytes else 0.0 for cost in costs])
    time = forward + _prefix([cost.backward_s for cost in costs]) + (again if recompute else 0.0)
    held = _prefix([sum(size for _, size, _ in cost.parameters) for cost in costs])
    kept = _prefix([(cost.input_bytes or cost.kept_bytes) if recompute else cost.kept_bytes for cost in costs])
    working = max((cost.kept_bytes for cost in costs if cost.input_bytes), default=0.0) if recompute else 0.0
    transient = max((cost.transient_bytes for cost in costs), default=0.0)
    duration = time[None, :] - time[:, None]
    usable = np.ones(count + 1, dtype=bool)
    if allowed is not None:
        usable[:] = False
        usable[[0, *allowed, count]] = True
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    spread = np.zeros(count + 1)
    choices: list[NDArray[np.intp]] = []
    for stage in range(stages):
        memory = (held[None, :] - held[:, None]) * state_copies + (kept[None, :] - kept[:, None]) * in_flight[stage]
        fits = (memory + working + transient <= limit_bytes) & (duration >= 0) & usable[:, None] & usable[None, :]
        fits &= np.arange(count + 1)[:, None] < np.arange(count + 1)[None, :]
        slowest = np.where(fits, np.maximum(best[:, None], duration), np.inf)
        # Among cuts with the same slowest stage, the sum of squares prefers even ones.
        squares = np.where(fits, spread[:, None] + duration**2, np.inf)
        lowest = slowest.min(axis=0)
        tied = slowest <= lowest[None, :] * (1 + 1e-9)
        choice = np.where(tied, squares, np.inf).argmin(axis=0)
        choices.append(choice)
        best = lowest
        spread = np.where(np.isfinite(lowest), squares[choice, np.arange(count + 1)], np.inf)
        spread = np.where(np.isfinite(spread), spread, 0.0)
    if not np.isfinite(best[count]):
        return None
    cuts = []
    end = count
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return tuple(reversed(cuts[:-1]))


def _prefix(values: Sequence[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])
