"""Tokens that are dispatched to experts: micro-batches, stages, tp and dp leave the numbers as they are."""

import pytest
import torch

from tests.equality.parallel import prepared, train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.models import EXPERT_CASES
from tests.worker_pool import WorkerPool


@pytest.mark.parametrize(
    "layout", [(2, 2, 1), (1, 2, 2), (1, 1, 2)], ids=lambda layout: "tp{}-pp{}-dp{}".format(*layout)
)
@pytest.mark.parametrize("name", EXPERT_CASES)
def test_equal_to_a_single_process(worker_pool: WorkerPool, name: str, layout: tuple[int, int, int]) -> None:
    tp, pp, dp = layout
    dtype = torch.float32
    assert not prepared(name, dtype).batch.mixing and not prepared(name, dtype).batch.weighted
    found, plan = train_parallel(
        worker_pool, name, dtype, tp * pp * dp, "local-cpu", tp=tp, pp=pp, dp=dp, micro_batch=2
    )
    assert (plan.tp, plan.pp, plan.dp, plan.micro_batches) == (tp, pp, dp, 4 // dp)
    assert not any("mix" in note.text for note in plan.notes)
    assert_equal(found, single_process(name, dtype), tolerance(name, dtype))
