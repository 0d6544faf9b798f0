"""Two ranks that have not yet exchanged messages of a kind wait for each other before the first, as with NCCL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.equality.parallel import plan_of, train, train_plan
from tests.equality.single import assert_equal, single_process, tolerance
from tests.worker_pool import WorkerPool

PATIENCE = timedelta(seconds=20)


class _Meeting:
    """Makes the first message of two ranks in a group wait until both have come to it, on the side that posts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store, self._met = dist.distributed_c10d._get_default_store(), set[tuple[str, int]]()
        for name in ("send", "recv", "isend", "irecv"):
            monkeypatch.setattr(dist, name, self._meeting(getattr(dist, name)))

    def _meeting(self, post: Callable[..., Any]) -> Callable[..., Any]:
        def met(tensor: torch.Tensor, peer: int, group: dist.ProcessGroup | None = None, tag: int = 0) -> Any:
            name, own = (group or dist.group.WORLD).group_name, dist.get_rank()
            if (name, peer) not in self._met:
                self._met.add((name, peer))
                self._store.set(f"{name} {own} {peer}", "here")
                self._store.wait([f"{name} {peer} {own}"], PATIENCE)
            return post(tensor, peer, group=group, tag=tag)

        return met


def _train(*args: Any) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _Meeting(monkeypatch)
        return train(*args)


@pytest.mark.parametrize("schedule", ["gpipe", "zb-1p"])  # these receive ahead across what they compute
def test_no_rank_waits_for_what_it_has_yet_to_compute(worker_pool: WorkerPool, schedule: str) -> None:
    plan = plan_of("residual_mlp", torch.float64, 4, "local-cpu", pp=4, micro_batch=1, schedule=schedule)
    found = train_plan(worker_pool, "residual_mlp", torch.float64, plan, _train)
    assert_equal(found, single_process("residual_mlp", torch.float64), tolerance("residual_mlp", torch.float64))
