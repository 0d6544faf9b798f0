"""Recorded timelines: the very actions of the schedule, in order, with times that make sense."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import autopart
from autopart.schedules.find import find_schedule
from autopart.schedules.timeline import Timeline
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool


def _traced(world: int, path: str, pins: dict[str, Any]) -> tuple[Timeline | None, float, float]:
    batch = CASES["gpt"].batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), world, inputs=batch, global_batch=8, **pins)
    plain = float(par.train_step(par.shard_batch(batch)))
    assert par.recorded is None
    traced = float(par.train_step(par.shard_batch(batch), trace=True))
    if par.recorded is not None:
        par.plan.save_timeline(path, recorded=par.recorded)
    return par.recorded, plain, traced


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "interleaved-1f1b", "zb-h1", "zb-v"])
def test_what_ran_is_what_was_planned(worker_pool: WorkerPool, schedule: str, tmp_path: Path) -> None:
    virtual = find_schedule(schedule).virtual_stages[0]
    pins = {"pp": 2, "dp": 1, "tp": 2, "micro_batch": 1, "schedule": schedule, "virtual_stages": virtual}
    path = tmp_path / "trace.json"
    results = worker_pool.run(one_capture, 4, _traced, 4, str(path), pins)
    timeline = results[0][0]
    assert [result[0] for result in results[1:]] == [None] * 3
    for _, plain, traced in results:
        assert traced == plain, "recording changes nothing"
    actions = find_schedule(schedule)(2, 8, virtual)
    assert tuple(tuple(span.action for span in spans) for spans in timeline.ranks) == actions
    for spans in timeline.ranks:
        for before, after in pairwise(spans):
            assert 0 <= before.start_s < before.end_s <= after.start_s
    trace = json.loads(path.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in trace if event["name"] == "process_name"]
    assert names[0].startswith("predicted: GPT") and names[1] == "recorded"
    order = [[e["name"] for e in trace if e["ph"] == "X" and (e["pid"], e["tid"]) == (p, 0)] for p in (0, 1)]
    assert order[0] == order[1], "the predicted and the real actions, side by side"
