"""Padded batches, an encoder, an encoder with a decoder, a U-Net: what other pipelines cannot run, split both ways."""

import pytest
import torch

from tests.equality.parallel import train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.models import MORE_CASES
from tests.worker_pool import WorkerPool


@pytest.mark.parametrize(
    "layout", [(2, 2, 1), (1, 4, 1), (1, 2, 2)], ids=lambda layout: "tp{}-pp{}-dp{}".format(*layout)
)
@pytest.mark.parametrize("name", MORE_CASES)
def test_equal_to_a_single_process(worker_pool: WorkerPool, name: str, layout: tuple[int, int, int]) -> None:
    tp, pp, dp = layout
    dtype = torch.float64
    found, plan = train_parallel(
        worker_pool, name, dtype, tp * pp * dp, "local-cpu", tp=tp, pp=pp, dp=dp, micro_batch=2
    )
    assert (plan.tp, plan.pp, plan.dp) == layout
    assert_equal(found, single_process(name, dtype), tolerance(name, dtype))
