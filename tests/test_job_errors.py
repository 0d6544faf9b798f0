"""Errors inside a job: ranks that disagree, batches that do not fit, processes that fail."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from tests.models import ResidualMLP
from tests.worker_pool import WorkerPool

BATCH = torch.zeros(8, 8)


def mlp(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return ResidualMLP()


def mean(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return output.mean()


def parallel(world: int, **keywords: Any) -> autopart.Parallel[autopart.Plan]:
    settings: dict[str, Any] = {"global_batch": 8, "inputs": BATCH, "loss": mean, **keywords}
    return autopart.parallelize(mlp(), world, **settings)


def _message(function: Callable[..., Any], *args: Any, **keywords: Any) -> tuple[str, str]:
    """The type and text of the error that a call raises."""
    try:
        function(*args, **keywords)
    except autopart.AutopartError as error:
        return type(error).__name__, str(error)
    return "", ""


def _different_pins(pins: list[dict[str, Any]]) -> tuple[str, str]:
    return _message(parallel, 2, **pins[torch.distributed.get_rank()])


def _another_world() -> tuple[str, str]:
    return _message(parallel(4).train_step, BATCH)


def _on_meta() -> tuple[str, str]:
    par = autopart.parallelize(mlp("meta"), 1, inputs=BATCH, loss=mean, global_batch=8)
    return _message(par.train_step, BATCH)


def _batches(world: int) -> dict[str, tuple[str, str]]:
    par = parallel(world, dp=world)
    batches: dict[str, Any] = {
        "size": torch.zeros(8 // world + 1, 8),
        "none": torch.zeros(0, 8),
        "shape": torch.zeros(8 // world, 9),
        "rank": torch.zeros(8 // world, 1, 8),
        "dtype": torch.zeros(8 // world, 8, dtype=torch.float64),
        "key": {"y": torch.zeros(8 // world, 8)},
        "type": "a batch",
    }
    found = {name: _message(par.train_step, batch) for name, batch in batches.items()}
    found["global"] = _message(par.shard_batch, torch.zeros(9, 8))
    found["few"] = _message(par.shard_batch, torch.zeros(world - 1, 8))
    found["right"] = _message(par.train_step, par.shard_batch(torch.zeros(8, 8)))
    return found


def _without_loss() -> tuple[str, str]:
    return _message(parallel(1, loss=None).train_step, BATCH)


class TestInAJob:
    @pytest.mark.parametrize(
        "pins",
        [
            [{"tp": 2}, {"pp": 2}],
            [{"dp": 2, "micro_batch": 2}, {"dp": 2, "micro_batch": 4}],
            [{"pp": 2, "schedule": "1f1b"}, {"pp": 2, "schedule": "gpipe"}],
            [{"pp": 2, "recompute": "none"}, {"pp": 2, "recompute": "full"}],
            [{"cuts": ["layers.1"]}, {"cuts": ["layers.2"]}],
            [{"precision": "bf16-mixed"}, {"precision": "as-built"}],
            [{"dp": 2, "micro_batch": 2, "global_batch": 8}, {"dp": 2, "micro_batch": 2, "global_batch": 16}],
        ],
        ids=["degrees", "micro_batch", "schedule", "recompute", "cuts", "precision", "global_batch"],
    )
    def test_ranks_that_disagree(self, worker_pool: WorkerPool, pins: list[dict[str, Any]]) -> None:
        for name, message in worker_pool.run(_different_pins, 2, pins):
            assert name == "LaunchError"
            assert "ranks [1] have a different plan from rank 0: every rank must call parallelize with the" in message

    def test_a_job_of_another_size(self, worker_pool: WorkerPool) -> None:
        for name, message in worker_pool.run(_another_world, 2):
            assert name == "LaunchError"
            assert "the plan is for 4 ranks, this job has 2: launch with" in message

    def test_a_model_without_weights(self, worker_pool: WorkerPool) -> None:
        ((name, message),) = worker_pool.run(_on_meta, 1)
        assert name == "CheckpointError"
        assert "ResidualMLP was built on meta, and 'enter.bias' and " in message
        assert "par.init_weights(build, seed), par.load_pretrained(directory) or par.load(directory) first" in message

    @pytest.mark.parametrize("world", [1, 2])
    def test_batches(self, worker_pool: WorkerPool, world: int) -> None:
        share = 8 // world
        for found in worker_pool.run(_batches, world, world):
            assert found.pop("right") == ("", "")
            assert {name for name, _ in found.values()} == {"BatchError"}
            assert (
                f"the batch has {share + 1} samples, the plan gives each of dp={world} replicas {share}"
                in found["size"][1]
            )
            assert f"global_batch={(share + 1) * world}" in found["size"][1]
            assert "the batch has 0 samples" in found["none"][1]
            assert f"is torch.float32 of shape ({share}, 9), the plan was made for torch.float32" in found["shape"][1]
            assert f"of shape ({share}, 1, 8)" in found["rank"][1]
            assert "is torch.float64 of shape" in found["dtype"][1]
            assert "the batch has no tensor '0': the plan was made with ['0']" in found["key"][1]
            assert "a batch is a mapping, a tuple or a tensor, not a str" in found["type"][1]
            assert f"the batch has 9 samples, the plan was made for global_batch=8 on dp={world}" in found["global"][1]
            assert f"the batch has {world - 1} samples" in found["few"][1]

    def test_no_loss(self, worker_pool: WorkerPool) -> None:
        ((name, message),) = worker_pool.run(_without_loss, 1)
        assert name == "UnsupportedError"
        assert "ResidualMLP returns no loss: pass loss=, a function of (output, batch), to parallelize" in message


def _fails_on(rank: int) -> int:
    if torch.distributed.get_rank() == rank:
        raise ValueError("a mistake of the user")
    torch.distributed.barrier()  # the others wait for it
    return 0


def _dies_on(rank: int) -> int:
    if torch.distributed.get_rank() == rank:
        os._exit(3)
    torch.distributed.barrier()
    return 0


class TestRun:
    def test_a_rank_that_fails(self) -> None:
        with pytest.raises(autopart.WorkerError) as caught:
            autopart.run(_fails_on, world=2, args=(1,))
        message = str(caught.value)
        assert message.startswith("rank 1 of 2 failed:\n")
        assert "Traceback (most recent call last)" in message and "in _fails_on" in message
        assert "ValueError: a mistake of the user" in message

    def test_a_rank_that_dies(self) -> None:
        with pytest.raises(autopart.WorkerError, match="rank 0 of 2 died with exit code 3"):
            autopart.run(_dies_on, world=2, args=(0,))
