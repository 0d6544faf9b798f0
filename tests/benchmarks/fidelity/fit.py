"""Fit: the constants of devices, clusters and stacks from published runs, and what each source left out would be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_models.cluster import load_cluster
from cost_models.stack import load_stack, stack_names
from tests.benchmarks.fidelity.constant import Constant
from tests.benchmarks.fidelity.constants import CONSTANTS
from tests.benchmarks.fidelity.evaluate import outcome_of
from tests.benchmarks.fidelity.run import Run
from tests.benchmarks.fidelity.setting import setting_of

# An error of this size, relative, weighs as much in a source's average as a constant one `spread` off.
NOISE = 0.05
# Runs of an origin that the fit looks at: those of one sweep tell much the same.
SAMPLED = 24
STEP = 1.04

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """Logarithms of predicted over measured times around `point`, and how they change with each constant."""

    runs: tuple[Run, ...]
    point: Vector
    errors: Vector
    slopes: NDArray[np.float64]

    counts: Mapping[str, int]

    def at(self, values: Vector) -> Vector:
        """The same at other constants, to first order."""
        return self.errors + self.slopes @ (values - self.point)


def linearize(runs: Sequence[Run], values: Mapping[Constant, float], workers: int) -> Linear:
    """Evaluate a sample of `runs` at `values`, and with each constant moved a little."""
    sampled = _sample(runs)
    with get_context("spawn").Pool(workers) as pool:
        chunks = _chunks(sampled, 4 * workers)
        rows = [
            row for chunk in pool.map(_rows, [(chunk, dict(values)) for chunk in chunks], chunksize=1) for row in chunk
        ]
    ordered = [run for chunk in chunks for run in chunk]
    kept = [(run, row) for run, row in zip(ordered, rows, strict=True) if row is not None]
    errors = np.array([row[0] for _, row in kept])
    slopes = np.array([row[1:] for _, row in kept])
    counts = Counter(run.origin for run in runs if not run.suspect)
    return Linear(tuple(run for run, _ in kept), np.array(list(values.values())), errors, slopes, counts)


def _sample(runs: Sequence[Run]) -> list[Run]:
    """At most `SAMPLED` runs of each origin, evenly dealt over those of it that nobody doubts."""
    by_origin: dict[str, list[Run]] = {}
    for run in runs:
        if not run.suspect:
            by_origin.setdefault(run.origin, []).append(run)
    return [
        own[index * len(own) // count]
        for own in by_origin.values()
        for count in [min(len(own), SAMPLED)]
        for index in range(count)
    ]


def _chunks(runs: Sequence[Run], count: int) -> list[list[Run]]:
    """Runs of one model stay together, so that it is captured once."""
    by_model: dict[Any, list[Run]] = {}
    for run in runs:
        by_model.setdefault((run.family, run.layers, run.hidden, run.heads, run.seq_len, run.stack), []).append(run)
    chunks: list[list[Run]] = [[] for _ in range(count)]
    for group in sorted(by_model.values(), key=len, reverse=True):
        min(chunks, key=len).extend(group)
    return [chunk for chunk in chunks if chunk]


def _rows(work: tuple[list[Run], dict[Constant, float]]) -> list[list[float] | None]:
    runs, values = work
    captured: dict[Any, Any] = {}
    return [_row(run, captured, values) for run in runs]


def _row(run: Run, captured: dict[Any, Any], values: dict[Constant, float]) -> list[float] | None:
    """The logarithm of predicted over measured, and its slope along every constant."""
    base = outcome_of(run, captured, values)
    if base.step_s is None or run.step_s is None:
        return None
    setting = setting_of(run, stack_names())
    cluster, stack = load_cluster(setting.keywords["cluster"]), load_stack(setting.keywords["stack"])
    row = [log(base.step_s / run.step_s)]
    for constant, value in values.items():
        if not constant.concerns(cluster, stack):
            row.append(0.0)
            continue
        moved = value * STEP if value * STEP <= constant.most else value / STEP
        other = outcome_of(run, captured, values | {constant: moved})
        row.append(log((other.step_s or base.step_s) / base.step_s) / (moved - value))
    return row


def fit(linear: Linear, prior: Vector, without: str = "") -> Vector:
    """The constants that fit all runs but those of source `without`.

    Every source weighs as the square root of its runs; large errors weigh less (soft L1), and each constant is held to
    what was known of it before.
    """
    sampled = Counter(run.origin for run in linear.runs)
    weights = np.array(
        [
            0.0 if run.origin == without else sqrt(sqrt(linear.counts[run.origin]) / sampled[run.origin]) / NOISE
            for run in linear.runs
        ]
    )
    spreads = np.array([constant.spread for constant in CONSTANTS]) * prior

    def residuals(values: Vector) -> Vector:
        return np.concatenate([weights * linear.at(values), (values - prior) / spreads])

    least = np.array([constant.least for constant in CONSTANTS])
    most = np.array([constant.most for constant in CONSTANTS])
    start = np.clip(linear.point, least + 1e-6, most - 1e-6)
    found = least_squares(residuals, start, bounds=(least, most), loss="soft_l1")
    return np.asarray(found.x)
