"""`python -m tests.benchmarks.zoo [NAME ...]`: try architectures, a row each; a run of all writes docs/zoo.md."""

import argparse
import atexit
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from tests.benchmarks.zoo.architectures import architectures
from tests.benchmarks.zoo.report import page, row
from tests.benchmarks.zoo.trial import Trial, run_trial
from tests.worker_pool import WorkerPool

PAGE = Path("docs/zoo.md")
RANKS = 4


def main() -> int:
    """The exit status: 1 if a number was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures to try; all if left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="architectures tried at the same time")
    options = parser.parse_args()
    known = [architecture.name for architecture in architectures()]
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no architecture {unknown[0]!r}; known are {', '.join(known)}")
    trials = []
    for trial in run_trials(options.names or known, options.jobs):
        print(row(trial), flush=True)
        trials.append(trial)
    if not options.names:
        PAGE.write_text(page(trials, options.jobs))
        print(f"wrote {PAGE}")
    return int(any(trial.result == "wrong" for trial in trials))


def run_trials(names: list[str], jobs: int) -> Iterator[Trial]:
    """The trials of `names` in order, `jobs` at a time, each job with ranks of its own."""
    with ProcessPoolExecutor(jobs) as executor:
        yield from executor.map(_run, names)


def _run(name: str) -> Trial:
    return run_trial(_ranks(), next(item for item in architectures() if item.name == name))


@cache
def _ranks() -> WorkerPool:
    """The ranks of this job, for all its trials."""
    pool = WorkerPool(RANKS)
    atexit.register(pool.close)
    return pool


if __name__ == "__main__":
    sys.exit(main())
