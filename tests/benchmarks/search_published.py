"""The search against every published layout: `python -m tests.benchmarks.search_published [RUN ...]`.

Each published run is predicted with its layout pinned, as `make fidelity` does; then all that its stack's software can
do is searched for the same model, devices and batch. The layout that is found must not be slower.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import autopart
from autopart.ir.plan import PlanData
from autopart.report.grid import grid
from cost_models.cluster import load_cluster
from cost_models.stack import stack_names
from tests.benchmarks.fidelity.run import Run, read_runs
from tests.benchmarks.fidelity.setting import Setting, setting_of
from tests.benchmarks.fidelity.transformer import build

DATA = Path(__file__).parent / "data/published_runs.csv"
# What a search is free to choose; the rest of a setting is the question.
FREE = (
    *("tp", "pp", "dp", "cp", "micro_batch", "virtual_stages", "zero", "schedule", "recompute", "cuts"),
    *("sequence_parallel", "memory_limit_bytes"),
)
ROUNDING = 1e-9
ROUNDED_BYTES = 8  # a peak is a sum of whole bytes, each rounded down
KEEP = Path("search_published.jsonl")


@dataclass(frozen=True, slots=True)
class Compared:
    """A run's layout as it was published and the one that is searched, with their predicted seconds a step.

    `fits` says whether the former is predicted to fit the devices; where it is not, the search may use as much memory.
    `seconds` is what the search took.
    """

    run: Run
    published_s: float
    searched_s: float
    layout: str
    optimality: str
    fits: bool
    seconds: float

    @property
    def worse(self) -> bool:
        """Whether the search found nothing as fast as what was published."""
        return self.searched_s > self.published_s * (1 + ROUNDING)


def compared(runs: Sequence[Run]) -> Iterator[Compared]:
    """The comparisons for runs of one model, which is captured once; layouts of one question share its search."""
    shared: dict[Any, tuple[PlanData, float]] = {}
    captured: dict[Any, Any] = {}
    for run in runs:
        setting = setting_of(run, stack_names())
        key = (setting.shape, setting.dtype)
        if key not in captured:
            model, batch = build(*key)
            captured[key] = autopart.prepare(model, inputs=batch)
        pinned = autopart.plan(captured[key], **setting.keywords)
        device = load_cluster(setting.keywords["cluster"]).device.memory_bytes
        peak = max(pinned.predicted.peak_memory_bytes)
        question = {name: value for name, value in setting.keywords.items() if name not in FREE}
        question["memory_limit_bytes"] = float(max(device, peak + ROUNDED_BYTES))
        at = (key, tuple(sorted(question.items())))
        if at not in shared:
            start = time.process_time()
            shared[at] = autopart.plan(captured[key], **question), time.process_time() - start
        found, seconds = shared[at]
        yield Compared(
            run,
            pinned.predicted.step_time_s,
            found.predicted.step_time_s,
            layout_of(found),
            found.optimality,
            peak <= device,
            seconds,
        )


def layout_of(plan: PlanData) -> str:
    """A plan's decisions in a line."""
    degrees = f"{plan.tp}×{plan.pp}×{plan.dp}" + (f"×{plan.cp}" if plan.cp > 1 else "")
    schedule = plan.schedule + (f"×{plan.virtual_stages}" if plan.virtual_stages > 1 else "")
    zero = f", ZeRO {plan.zero}" if plan.zero else ""
    return f"{degrees}, {plan.micro_batch}, {schedule if plan.pp > 1 else 'no pipeline'}, {plan.recompute}{zero}"


def by_model(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each model, the most first."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        setting: Setting = setting_of(run, stack_names())
        groups.setdefault((setting.shape, setting.dtype), []).append(run)
    return sorted(groups.values(), key=len, reverse=True)


def all_compared(runs: Sequence[Run], workers: int, tell: Callable[[str], None], keep: Path) -> list[Compared]:
    """The comparisons of all runs, in worker processes.

    Those of every model are added to the file `keep` as they are made, and are taken from there when it is asked again.
    """
    known = {run.id: run for run in runs}
    found = _read(keep, known)
    done = {item.run.id for item in found}
    left = by_model([run for run in runs if run.id not in done])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, keep.open("a") as file:
        for number, future in enumerate(as_completed([pool.submit(_compared, own) for own in left])):
            found += future.result()
            file.writelines(json.dumps(asdict(item) | {"run": item.run.id}) + "\n" for item in future.result())
            file.flush()
            tell(f"{number + 1} of {len(left)} models, {len(found)} runs, {sum(item.worse for item in found)} worse")
    return sorted(found, key=lambda item: item.run.id)


def _read(keep: Path, runs: Mapping[str, Run]) -> list[Compared]:
    lines = [json.loads(line) for line in keep.read_text().splitlines()] if keep.exists() else []
    return [Compared(**(line | {"run": runs[line["run"]]})) for line in lines if line["run"] in runs]


def _compared(runs: Sequence[Run]) -> list[Compared]:
    return list(compared(runs))


def summary(found: Sequence[Compared]) -> str:
    """What the comparisons show, in a paragraph."""
    gains = sorted(item.published_s / item.searched_s - 1 for item in found)
    proved = sum(item.optimality.startswith("optimal") for item in found)
    worse = sum(item.worse for item in found)
    told = f"In {worse} of {len(found)} the searched layout is predicted to be slower than the published one. "
    told += (
        f"It is faster by {100 * gains[len(gains) // 2]:.1f} % in the median and {100 * gains[-1]:.0f} % at the most. "
    )
    told += f"{proved} searches proved their answer optimal among the candidates. "
    unfit = sum(not item.fits for item in found)
    return told + (
        f"{unfit} published layouts are predicted not to fit; there the search was given as much memory as they need."
    )


def table(found: Sequence[Compared]) -> str:
    """A row for each run."""
    rows = [
        (
            item.run.id,
            item.run.gpus,
            f"{item.run.tp}×{item.run.pp}×{item.run.dp}" + (f"×{item.run.cp}" if item.run.cp > 1 else ""),
            f"{item.published_s:.3f}",
            item.layout,
            f"{item.searched_s:.3f}",
            f"{100 * (item.searched_s / item.published_s - 1):+.1f} %" + (" WORSE" if item.worse else ""),
        )
        for item in found
    ]
    headers = ("run", "GPUs", "published", "s a step", "searched: tp×pp×dp, micro-batch, ...", "s a step", "change")
    return "\n".join(grid(rows, headers, "lrlrlrr"))


def chosen(names: Sequence[str]) -> list[Run]:
    """The runs of these names; all where there are none."""
    runs: Mapping[str, Run] = {run.id: run for run in read_runs(DATA)}
    return [runs[name] for name in names] if names else list(runs.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names of runs (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--keep", type=Path, default=KEEP, help="results as they are made; what is there is not redone")
    arguments = parser.parse_args()
    results = all_compared(
        chosen(arguments.runs), arguments.workers, lambda line: print(line, file=sys.stderr), arguments.keep
    )
    print(table(results), summary(results), sep="\n\n")
