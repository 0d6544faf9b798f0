"""Predicted against measured on this machine: `python -m tests.benchmarks.local_runs [--world 2 4] [--rounds 12]`.

Calibrates, then trains small models at many layouts on local processes, and prints for each the predicted and the
measured step time and peak of tensor memory. `±` is half the range between the quartiles of the blocks of steps that
count, `speed` that of the machine then, by a few products, relative to that of calibration, and `others` the most of
the machine that other programs took in these blocks.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

import autopart
from autopart import api
from autopart.report.grid import grid
from cost_models.cluster import load_cluster
from tests.benchmarks.local_runs.layouts import Layout, layouts
from tests.benchmarks.local_runs.measure import Measured, Probe, train
from tests.benchmarks.local_runs.models import GLOBAL_BATCH, MODELS

TIMEOUT_S = 1800.0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=int, nargs="+", default=[2], help="numbers of processes (default: 2)")
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=12, help="blocks of steps of each layout (default: 12)")
    parser.add_argument("--cluster", help="a cluster file to use instead of calibrating")
    parser.add_argument("--keep", help="a directory for the calibrated files")
    asked = parser.parse_args()
    for world in asked.world:
        with tempfile.TemporaryDirectory(prefix="autopart-calibrated-") as folder:
            cluster = asked.cluster
            if cluster is None:
                calibration = api.calibrate(world, Path(asked.keep or folder))
                print(f"{calibration}\nload {_load()}\n")
                cluster = str(calibration.cluster_path)
            for name in asked.model:
                print(_compare(name, world, cluster, asked.rounds), flush=True)


def _compare(name: str, world: int, cluster: str, rounds: int) -> str:
    model, inputs = MODELS[name].made(), MODELS[name].batch()
    prepared = api.prepare(model, inputs, None)
    pinned = {
        layout: api.plan(
            prepared, world, cluster=cluster, global_batch=GLOBAL_BATCH, tp=layout.tp, pp=layout.pp, dp=layout.dp,
            micro_batch=layout.micro_batch, recompute=layout.recompute,
        )
        for layout in layouts(world)
    }  # fmt: skip
    chosen = api.plan(prepared, world, cluster=cluster, global_batch=GLOBAL_BATCH)
    own = Layout(chosen.tp, chosen.pp, chosen.dp, chosen.micro_batch, chosen.recompute)
    plans, titles = list(pinned.values()), [layout.text for layout in pinned]
    choice = next((i for i, plan in enumerate(plans) if _decisions(plan) == _decisions(chosen)), len(plans))
    if choice == len(plans):
        plans.append(chosen)
        titles.append(own.text)
    titles[choice] += ", chosen"
    before = _load()
    found = autopart.run(train, world, (name, plans, rounds), timeout_s=TIMEOUT_S)[0]
    probe_s = Probe.calibrated_s(load_cluster(cluster))
    rows = [_row(title, plan, seen, probe_s) for title, plan, seen in zip(titles, plans, found, strict=True)]
    headers = (
        "layout",
        "predicted ms",
        "measured ms",
        "±",
        "error",
        "speed",
        "others",
        "peak MiB",
        "measured",
        "error",
    )
    memory = [_peak(plan) / seen.peak_bytes - 1 for plan, seen in zip(plans, found, strict=True)]
    predicted = [plan.predicted.step_time_s for plan in plans]
    measured = [seen.step_s for seen in found]
    at_speed = [seen.at_speed_s(probe_s) for seen in found]
    lines = [
        f"{name}, {world} processes; load {before} before, {_load()} after",
        *grid(rows, headers, "lrrrrrrrrr"),
        "",
        f"as measured: {_verdict(titles, choice, predicted, measured)}",
        f"at the speed of calibration: {_verdict(titles, choice, predicted, at_speed)}",
        f"peak memory: mean error {fmean(map(abs, memory)):.1%}, bias {fmean(memory):+.1%}",
        "",
    ]
    return "\n".join(lines)


def _decisions(plan: api.Plan) -> tuple[object, ...]:
    """What makes two plans run alike."""
    degrees = plan.tp, plan.pp, plan.dp
    return *degrees, plan.micro_batch, plan.recompute, plan.schedule, plan.cuts, plan.nodes, plan.parameters


def _verdict(titles: Sequence[str], choice: int, predicted: Sequence[float], measured: Sequence[float]) -> str:
    """How predictions and measurements agree, and what the planner's choice lost."""
    errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    fastest = min(measured)
    return (
        f"rank correlation {spearmanr(predicted, measured).statistic:.3f}, mean error {fmean(map(abs, errors)):.1%}, "
        f"bias {fmean(errors):+.1%}; the planner's choice is {measured[choice] / fastest - 1:+.1%} from the fastest "
        f"({titles[measured.index(fastest)]})"
    )


def _row(title: str, plan: api.Plan, seen: Measured, probe_s: float) -> tuple[str, ...]:
    step_s, peak = plan.predicted.step_time_s, _peak(plan)
    return (
        title,
        f"{step_s * 1e3:.1f}",
        f"{seen.step_s * 1e3:.1f}",
        f"{seen.spread:.0%}",
        f"{step_s / seen.step_s - 1:+.1%}",
        f"{seen.at_speed_s(probe_s) / seen.step_s:.0%}",
        f"{seen.others:.0%}",
        f"{peak / 2**20:.1f}",
        f"{seen.peak_bytes / 2**20:.1f}",
        f"{peak / seen.peak_bytes - 1:+.1%}",
    )


def _peak(plan: api.Plan) -> float:
    """The predicted peak of tensors: without what the device keeps back."""
    return max(stage.memory.total_bytes - stage.memory.reserve_bytes for stage in plan.stages)


def _load() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


if __name__ == "__main__":
    main()
