"""Predicted against published: `python -m tests.benchmarks.fidelity [--runs FILE.csv] [--fit] [--write]`."""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.benchmarks.fidelity.constants import CONSTANTS
from tests.benchmarks.fidelity.evaluate import Outcome, evaluate
from tests.benchmarks.fidelity.fit import fit, linearize
from tests.benchmarks.fidelity.measures import measures_of, stack_errors
from tests.benchmarks.fidelity.page import page
from tests.benchmarks.fidelity.report import constants_table, percent, scatter, tables, unseen
from tests.benchmarks.fidelity.run import Run, read_table

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/benchmarks/data/published_runs.csv"
UNSEEN = ROOT / "tests/benchmarks/data/unseen_runs.csv"
LEFT_OUT = ROOT / "tests/benchmarks/data/leave_one_out.json"


def main() -> None:
    """Print the tables; with --write, write docs/fidelity.md and its plot too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=DATA, help="a csv file of published runs (default: the project's)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", action="store_true", help="print every run")
    parser.add_argument("--write", action="store_true", help="write docs/fidelity.md and docs/fidelity.png")
    parser.add_argument("--fit", action="store_true", help="fit the constants anew, and leave each origin out in turn")
    asked = parser.parse_args()
    began = time.monotonic()
    runs, unread = read_table(asked.runs)
    if asked.fit:
        _fit(runs, asked.jobs)
        return
    outcomes = evaluate(runs, asked.jobs)
    if asked.rows:
        for outcome in outcomes:
            print(_row(outcome))
    moved = _left_out(outcomes) if asked.runs == DATA and LEFT_OUT.exists() else []
    left_out = {o.run.origin: measures_of([m for m in moved if m.run.origin == o.run.origin]) for o in moved}
    left_out |= {"all": measures_of(moved)} if moved else {}
    text = tables(outcomes, left_out, unread)
    print(text)
    if asked.runs == DATA:
        others, unread_others = read_table(UNSEEN)
        unfitted = evaluate(others, asked.jobs)
        blind = unseen(unfitted, unread_others)
        print(f"\n## Runs that nothing was fitted to\n\n{blind}")
        # What the files of stacks say of their errors.
        print("\ntime_error:", {name: round(error, 3) for name, error in stack_errors([*moved, *unfitted]).items()})
        print(f"of all of them {percent(measures_of([*moved, *unfitted]).clean_mean)}")
        if asked.write:
            values = {constant: constant.value() for constant in CONSTANTS}
            written = page(text, blind, constants_table(values), len(values))
            (ROOT / "docs/fidelity.md").write_text(written, encoding="utf-8")
            scatter(outcomes, ROOT / "docs/fidelity.png", unfitted)
    print(f"\n{len(runs) + len(unread)} runs in {time.monotonic() - began:.0f} s")


def _row(outcome: Outcome) -> str:
    run = outcome.run
    layout = f"tp{run.tp} pp{run.pp} dp{run.dp} cp{run.cp} vp{run.virtual_stages} mb{run.micro_batch}"
    if outcome.step_s is None:
        return f"{run.id:45} {layout:32} {outcome.reason}"
    measured = f"{run.step_s:9.3f}" if run.step_s is not None else "  no time"
    error = percent(outcome.time_error) if outcome.time_error is not None else ""
    memory = f"{run.peak_gib} -> {outcome.peak_gib:.1f} GiB" if run.peak_gib is not None else ""
    return f"{run.id:45} {layout:32} measured {measured} predicted {outcome.step_s:9.3f} s {error:>8} {memory}"


def _fit(runs: tuple[Run, ...], jobs: int) -> None:
    """Print constants fitted on all origins, and write how far off each origin is when it is left out."""
    values = {constant: constant.value() for constant in CONSTANTS}
    prior = np.array([constant.prior for constant in CONSTANTS])
    timed = [run for run in runs if run.step_s is not None]
    linear = linearize(timed, values, jobs)
    fitted = fit(linear, prior)
    print(constants_table(dict(zip(CONSTANTS, fitted.tolist(), strict=True))))
    print(f"mean error before {percent(float(np.mean(np.abs(np.expm1(linear.errors)))))}, ", end="")
    print(f"after {percent(float(np.mean(np.abs(np.expm1(linear.at(fitted))))))}")
    errors: dict[str, float] = {}
    for origin in dict.fromkeys(run.origin for run in timed):
        others = dict(zip(CONSTANTS, fit(linear, prior, without=origin).tolist(), strict=True))
        for outcome in evaluate([run for run in timed if run.origin == origin], jobs, others):
            if outcome.time_error is not None:
                errors[outcome.run.id] = round(outcome.time_error, 5)
    LEFT_OUT.write_text(json.dumps(errors, indent=0) + "\n", encoding="utf-8")


def _left_out(outcomes: tuple[Outcome, ...]) -> list[Outcome]:
    """The outcomes with constants fitted without their origin, as the last --fit found them."""
    errors = json.loads(LEFT_OUT.read_text(encoding="utf-8"))
    return [
        replace(o, step_s=o.run.step_s * (1 + errors[o.run.id]))
        for o in outcomes
        if o.run.id in errors and o.run.step_s is not None
    ]


if __name__ == "__main__":
    main()
