"""Report: the tables of `docs/fidelity.md`, and the scatter plot beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from tests.benchmarks.fidelity.constant import Constant
from tests.benchmarks.fidelity.evaluate import Outcome
from tests.benchmarks.fidelity.measures import Measures, feasibility_of, measures_of, sweeps_of


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.{digits}f} %"


def tables(
    outcomes: Sequence[Outcome], left_out: Mapping[str, Measures], unread: Sequence[tuple[str, str]] = ()
) -> str:
    """All tables as markdown; `left_out` has the measures of each origin when nothing of it was fitted.

    `unread` names rows that could not be read, and why.
    """
    return "\n\n".join(
        part
        for part in (
            "## Step time and memory, by who measured\n\n" + _origins(outcomes, left_out),
            "## Layout sweeps\n\n" + _sweeps(outcomes),
            "## Memory limits\n\n" + _limits(outcomes),
            "## Runs that were not evaluated\n\n" + _missing(outcomes, unread),
            _stand_ins(outcomes),
        )
        if part
    )


def unseen(outcomes: Sequence[Outcome], unread: Sequence[tuple[str, str]] = ()) -> str:
    """The tables of runs that nothing was fitted to, each run in a line, as markdown."""
    head = ("run", "GPUs", "tp, pp, dp, cp", "measured s", "predicted s", "error")
    rows = [
        (
            o.run.id,
            o.run.gpus,
            f"{o.run.tp}, {o.run.pp}, {o.run.dp}, {o.run.cp}",
            f"{o.run.step_s:.4g}",
            f"{o.step_s:.4g}",
            percent(o.time_error),
        )
        for o in outcomes
        if o.time_error is not None
    ]
    missing = "" if all(o.step_s for o in outcomes) and not unread else _missing(outcomes, unread)
    parts = (_origins(outcomes, {}), missing, _stood_in(outcomes), tabulate(rows, head, tablefmt="github"))
    return "\n\n".join(part for part in parts if part)


def _origins(outcomes: Sequence[Outcome], left_out: Mapping[str, Measures]) -> str:
    names = list(dict.fromkeys(o.run.origin for o in outcomes))
    groups = [(name, [o for o in outcomes if o.run.origin == name]) for name in names]
    rows = []
    for name, group in [*groups, ("all", list(outcomes))]:
        own = measures_of(group)
        if not own.rows and not own.memory_rows:
            continue
        other = left_out.get(name)
        worst = f"{percent(own.worst.time_error or 0.0, 0)} {own.worst.run.id}" if own.worst else ""
        memory = f"{percent(own.memory_mean)} of {own.memory_rows}" if own.memory_rows else ""
        rows.append(
            (
                name,
                f"{own.rows} ({own.clean_rows})",
                percent(own.mean),
                percent(own.median),
                percent(own.clean_mean),
                percent(own.bias),
                f"{percent(other.clean_mean)} ({percent(other.bias)})" if other else "",
                memory,
                worst,
            )
        )
    head = ("origin", "rows (clean)", "mean", "median", "clean mean", "bias", "left out (bias)", "memory", "worst")
    filled = [any(row[column] for row in rows) for column in range(len(head))]
    shown = [[cell for cell, keep in zip(row, filled, strict=True) if keep] for row in (head, *rows)]
    return tabulate(shown[1:], shown[0], tablefmt="github")


def _sweeps(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (sweep.name, sweep.rows, f"{sweep.rank_correlation:.3f}", percent(sweep.lost)) for sweep in sweeps_of(outcomes)
    ]
    head = ("sweep", "clean rows", "rank correlation", "choice slower than the fastest by")
    return tabulate(rows, head, tablefmt="github") if rows else "None has 10 rows."


def _limits(outcomes: Sequence[Outcome]) -> str:
    found = feasibility_of(outcomes)
    wrong = [o.run.id for o in outcomes if o.fits is not None and o.fits == o.run.out_of_memory]
    named = f" Wrong: {', '.join(wrong)}." if wrong else ""
    return (
        f"{found.found} of {found.published} published out-of-memory points are predicted not to fit; of {found.ran} "
        f"runs that fitted, {found.false} are predicted not to.{named}"
    )


def _missing(outcomes: Sequence[Outcome], unread: Sequence[tuple[str, str]]) -> str:
    missing = [*((o.run.id, o.reason) for o in outcomes if o.reason), *unread]
    return "\n".join(f"- {name}: {reason}" for name, reason in missing) or "None: all were."


def _stand_ins(outcomes: Sequence[Outcome]) -> str:
    lines = _stood_in(outcomes)
    return f"## What stood in for something else\n\n{lines}" if lines else ""


def _stood_in(outcomes: Sequence[Outcome]) -> str:
    """What stood in for stacks, devices and models that are not known, with the runs that it was for."""
    runs: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.assumed:
            runs.setdefault(outcome.assumed, []).append(outcome.run.id)
    return "\n".join(f"- {assumed}: {', '.join(names)}" for assumed, names in runs.items())


def constants_table(values: Mapping[Constant, float]) -> str:
    """The fitted constants as markdown."""
    rows = [
        (constant.kind, constant.owners, constant.field, f"{value:.3f}", constant.unit)
        for constant, value in values.items()
    ]
    return tabulate(rows, ("of", "name", "constant", "value", "unit"), tablefmt="github")


def scatter(outcomes: Sequence[Outcome], path: Path, unfitted: Sequence[Outcome] = ()) -> None:
    """Predicted against measured step times, a colour an origin, as a PNG; `unfitted` runs as crosses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 7), dpi=110)
    for name in dict.fromkeys(o.run.origin for o in outcomes):
        own = [o for o in outcomes if o.run.origin == name and o.time_error is not None]
        axes.scatter([o.run.step_s for o in own], [o.step_s for o in own], s=9, label=name)
    for name in dict.fromkeys(o.run.origin for o in unfitted):
        own = [o for o in unfitted if o.run.origin == name and o.time_error is not None]
        axes.scatter([o.run.step_s for o in own], [o.step_s for o in own], s=14, marker="x", label=name)
    low, high = axes.get_xlim()[0], axes.get_xlim()[1]
    ends = [max(low, 0.1), high]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.fill_between(ends, [0.94 * end for end in ends], [1.06 * end for end in ends], color="black", alpha=0.1)
    axes.set(xscale="log", yscale="log", xlabel="measured, seconds a step", ylabel="predicted, seconds a step")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
