"""Measures: how far predictions are from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scipy.stats import spearmanr

from cost_models.cluster import load_cluster
from cost_models.stack import stack_names
from tests.benchmarks.fidelity.evaluate import Outcome
from tests.benchmarks.fidelity.setting import setting_of

SWEEP_ROWS = 10


@dataclass(frozen=True, slots=True)
class Measures:
    """Of some outcomes: counts, and errors as fractions. `bias` is the mean error: positive is too slow.

    `clean` leaves out suspect runs. `worst` is the clean run furthest off.
    """

    rows: int
    clean_rows: int
    mean: float
    median: float
    clean_mean: float
    bias: float
    worst: Outcome | None
    memory_rows: int
    memory_mean: float
    memory_bias: float


def measures_of(outcomes: Sequence[Outcome]) -> Measures:
    """The measures of `outcomes`; errors are 0 where there is none to measure."""
    timed = [o for o in outcomes if o.time_error is not None]
    clean = [o for o in timed if not o.run.suspect]
    errors = [o.time_error or 0.0 for o in timed]
    clean_errors = [o.time_error or 0.0 for o in clean]
    memory = [o.memory_error for o in outcomes if o.memory_error is not None]
    return Measures(
        rows=len(timed),
        clean_rows=len(clean),
        mean=fmean(map(abs, errors)) if errors else 0.0,
        median=median(map(abs, errors)) if errors else 0.0,
        clean_mean=fmean(map(abs, clean_errors)) if clean else 0.0,
        bias=fmean(clean_errors) if clean else 0.0,
        worst=max(clean or timed, key=lambda o: abs(o.time_error or 0.0), default=None),
        memory_rows=len(memory),
        memory_mean=fmean(map(abs, memory)) if memory else 0.0,
        memory_bias=fmean(memory) if memory else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Runs that differ in their layouts only: whether predictions order them as they were measured.

    `lost` is how much slower than the fastest measured the layout is that was predicted to be fastest.
    """

    name: str
    rows: int
    rank_correlation: float
    lost: float


def sweeps_of(outcomes: Sequence[Outcome]) -> tuple[Sweep, ...]:
    """The sweeps of at least `SWEEP_ROWS` clean runs."""
    by_sweep: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.time_error is not None and not outcome.run.suspect:
            by_sweep.setdefault(outcome.run.sweep, []).append(outcome)
    found = []
    for group in by_sweep.values():
        if len(group) < SWEEP_ROWS:
            continue
        measured = [o.run.step_s or 0.0 for o in group]
        predicted = [o.step_s or 0.0 for o in group]
        chosen = measured[predicted.index(min(predicted))]
        run = group[0].run
        name = f"{run.origin}, {run.layers} layers of {run.hidden}, {run.gpus} GPUs"
        correlation = float(spearmanr(measured, predicted).statistic)
        found.append(Sweep(name, len(group), correlation, chosen / min(measured) - 1))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Feasibility:
    """Out-of-memory runs predicted not to fit, of all; and runs that fitted but were predicted not to, of all."""

    found: int
    published: int
    false: int
    ran: int


def feasibility_of(outcomes: Sequence[Outcome]) -> Feasibility:
    """How well memory limits are predicted."""
    known = [o for o in outcomes if o.fits is not None]
    failed = [o for o in known if o.run.out_of_memory]
    ran = [o for o in known if not o.run.out_of_memory]
    return Feasibility(sum(not o.fits for o in failed), len(failed), sum(not o.fits for o in ran), len(ran))


def stack_errors(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The mean error of each stack and its variants, of clean runs that it did not stand in for, on checked devices."""
    names, errors = stack_names(), dict[str, list[float]]()
    for outcome in outcomes:
        if outcome.time_error is None or outcome.run.suspect or "stack" in outcome.assumed:
            continue
        asked = setting_of(outcome.run, names).keywords
        if load_cluster(asked["cluster"]).device.checked:
            base = next(name for name in names if asked["stack"] == name or asked["stack"].startswith(f"{name}-"))
            errors.setdefault(base, []).append(abs(outcome.time_error))
    return {name: fmean(own) for name, own in sorted(errors.items())}
