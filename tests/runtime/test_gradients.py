"""Gradients are summed beside the backward pass, in buckets that are the same on all replicas."""

import gc
import inspect
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

import autopart
from autopart.runtime import fill_buckets
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

PASSES = {"_backward", "add_gradients"}  # functions of the runtime that are running while gradients are made
Sum = tuple[bool, int]  # whether it began in a pass, and bytes


def _sums(world: int, pins: dict[str, Any]) -> tuple[list[Sum], int, int]:
    """Sums of gradients in a step, in order; the bytes of all gradients, and of the storages that have them."""
    batch = CASES["gpt"].batch(torch.float64)
    with mock.patch.object(fill_buckets, "LEAST_BYTES", 64 * 2**10):  # this model has less than a MiB
        par = autopart.parallelize(
            build("gpt", torch.float64), world, inputs=batch, global_batch=8, micro_batch=1, **pins
        )
    found: list[Sum] = []
    plain = dist.all_reduce

    def recorded(tensor: torch.Tensor, *args: Any, async_op: bool = False, **kwargs: Any) -> Any:
        if async_op:
            running = {frame.function for frame in inspect.stack(context=0)}
            found.append((bool(running & PASSES), tensor.nbytes))
        return plain(tensor, *args, async_op=async_op, **kwargs)

    with mock.patch.object(dist, "all_reduce", recorded):
        par.train_step(par.shard_batch(batch))
    gradients = [p.grad for p in par.parameters() if p.grad is not None]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gradients}
    return found, sum(x.nbytes for x in gradients), sum(storages.values())


@pytest.mark.parametrize(
    "pins",
    [
        {"dp": 2, "schedule": "1f1b"},
        {"dp": 2, "pp": 2, "schedule": "1f1b"},
        {"dp": 2, "pp": 2, "schedule": "interleaved-1f1b", "virtual_stages": 2},
        {"dp": 2, "pp": 2, "schedule": "zb-h1"},
    ],
    ids=str,
)
def test_most_sums_begin_in_the_last_backward_passes(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    world = 2 * pins.get("pp", 1)
    ranks = worker_pool.run(one_capture, world, _sums, world, {**pins, "zero": 0, "recompute": "none"})
    for one, two in zip(ranks[::2], ranks[1::2], strict=True):
        assert [size for _, size in one[0]] == [size for _, size in two[0]], "replicas sum the same in the same order"
    for sums, gradient_bytes, stored_bytes in ranks:
        assert len(sums) > 2
        assert sum(size for _, size in sums) == stored_bytes, "every gradient is summed once, where it lies"
        assert gradient_bytes <= stored_bytes < 1.05 * gradient_bytes
        assert sum(size for early, size in sums if early) > 0.5 * stored_bytes


def _is_forgotten(world: int) -> bool:
    batch = CASES["gpt"].batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), world, inputs=batch, global_batch=8, zero=0)
    par.train_step(par.shard_batch(batch))
    worker = weakref.ref(par._inside())
    del par
    gc.collect()
    return worker() is None


def test_hooks_keep_no_worker_alive(worker_pool: WorkerPool) -> None:
    """Nor its groups, each with threads of gloo's that look for messages a hundred times a second."""
    assert worker_pool.run(one_capture, 2, _is_forgotten, 2) == [True, True]
