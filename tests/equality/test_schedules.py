"""Every schedule, with several stages a rank and with a split backward pass, leaves the numbers as they are."""

from typing import Any

import pytest
import torch

from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule, schedule_names
from tests.equality.parallel import plan_of, train_plan
from tests.equality.single import assert_equal, single_process, tolerance
from tests.worker_pool import WorkerPool

TRAINING = [name for name in schedule_names() if Kind.BACKWARD in find_schedule(name).kinds]


def check(pool: WorkerPool, name: str, schedule: str, virtual: int | None = None, **pins: Any) -> None:
    dtype = torch.float64
    virtual = virtual or find_schedule(schedule).virtual_stages[0]
    world = pins.get("tp", 1) * pins["pp"] * pins.get("dp", 1)
    pins |= {"schedule": schedule, "virtual_stages": virtual}
    plan = plan_of(name, dtype, world, "local-cpu", **pins)
    assert len(plan.stages) == virtual * pins["pp"]
    found = train_plan(pool, name, dtype, plan)
    assert_equal(found, single_process(name, dtype), tolerance(name, dtype))


@pytest.mark.parametrize("micro_batch", [1, 4], ids=["8-micro-batches", "2-micro-batches"])
@pytest.mark.parametrize("schedule", TRAINING)
@pytest.mark.parametrize("name", ["gpt", "residual_mlp"])
def test_more_and_fewer_micro_batches_than_stages(
    worker_pool: WorkerPool, name: str, schedule: str, micro_batch: int
) -> None:
    """Four stages: a tied embedding and head, and a skip from the first stage to the last."""
    check(worker_pool, name, schedule, pp=4 if find_schedule(schedule).takes(1) else 2, micro_batch=micro_batch)


@pytest.mark.parametrize("schedule", TRAINING)
@pytest.mark.parametrize("name", ["llama", "gpt2", "conv_net"])
def test_every_model_of_the_matrix(worker_pool: WorkerPool, name: str, schedule: str) -> None:
    """In turn with a micro-batch a sample and with as few as two ranks can have: each model and schedule has both."""
    fewer = (TRAINING.index(schedule) + len(name)) % 2
    few = 8 if find_schedule(schedule).takes(1) else 4
    check(worker_pool, name, schedule, pp=2, micro_batch=few if fewer else 1)


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zb-h1", "zb-v"])
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_kinds_of_models(worker_pool: WorkerPool, name: str, schedule: str) -> None:
    check(worker_pool, name, schedule, pp=2, micro_batch=2)


@pytest.mark.parametrize("schedule", TRAINING)
def test_composed_with_the_other_axes(worker_pool: WorkerPool, schedule: str) -> None:
    check(worker_pool, "gpt", schedule, tp=2, pp=2, dp=2, micro_batch=1)


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zb-2p", "zb-v"])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_recomputation(worker_pool: WorkerPool, name: str, schedule: str) -> None:
    check(worker_pool, name, schedule, tp=2, pp=2, micro_batch=1, recompute="full")


def test_three_stages_a_rank(worker_pool: WorkerPool) -> None:
    check(worker_pool, "gpt", "interleaved-1f1b", virtual=3, pp=2, micro_batch=1)
