"""Groups that were started without the name of a backend, or with two, are known by what the job's devices use."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

import autopart
from autopart.runtime.backend import backend
from tests.models import ResidualMLP
from tests.worker_pool import WorkerPool


def _unnamed() -> tuple[str, str, str]:
    par = autopart.parallelize(ResidualMLP(), 1, inputs=torch.zeros(8, 8), loss=_mean, global_batch=8)
    store, world = dist.distributed_c10d._get_default_store(), dist.get_world_size()
    dist.destroy_process_group()
    store = dist.PrefixStore("again", store)
    offline = autopart.parallelize(ResidualMLP(), 1, inputs=torch.zeros(8, 8), loss=_mean, global_batch=8)
    dist.init_process_group(store=store, rank=0, world_size=world)
    try:
        offline.train_step(torch.zeros(8, 8))
    except autopart.LaunchError as error:
        return dist.get_backend(), backend(), f"{par.module is not None} {error}"
    return "", "", ""


def _mean(output: torch.Tensor, batch: object) -> torch.Tensor:
    return output.mean()


def test_a_group_without_a_name(worker_pool: WorkerPool) -> None:
    named, used, message = worker_pool.run(_unnamed, 1)[0]
    assert named not in ("", "gloo") and used == "gloo"
    assert message == "True the process group was started after parallelize: start it before, and call it then"


@pytest.mark.parametrize(("cuda", "expected"), [(True, "nccl"), (False, "gloo")])
def test_a_group_for_both_kinds_of_devices(cuda: bool, expected: str) -> None:
    both = "cpu:gloo,cuda:nccl"
    with (
        patch.object(dist, "get_backend", return_value="undefined"),
        patch.object(dist, "get_backend_config", return_value=both),
        patch.object(torch.cuda, "is_available", return_value=cuda),
    ):
        assert backend() == expected
