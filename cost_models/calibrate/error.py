"""Error: how far formulas with fitted figures are from what was measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fit:
    """`what` was fitted to how many samples, and the mean and the worst error that is left, as fractions."""

    what: str
    samples: int
    mean_error: float
    worst_error: float


def fit_of(what: str, predicted_s: Sequence[float], measured_s: Sequence[float]) -> Fit:
    """The errors of predictions."""
    errors = [abs(p / m - 1) for p, m in zip(predicted_s, measured_s, strict=True)]
    return Fit(what, len(errors), fmean(errors), max(errors))


def nearest(candidates: Iterable[T], predict: Callable[[T], Sequence[float]], measured_s: Sequence[float]) -> T:
    """The candidate whose predictions are nearest: the least mean of |log(predicted / measured)|.

    Ratios, so that a kernel of 10 us counts as much as one of 100 ms; not squared, so that one disturbed sample does
    not decide.
    """

    def distance(candidate: T) -> float:
        return fmean(abs(log(p / m)) for p, m in zip(predict(candidate), measured_s, strict=True))

    return min(candidates, key=distance)
