"""Every model in every layout trains as it does in a single process: losses, all gradients, final weights."""

import pytest
import torch

from tests.equality.parallel import train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.models import CASES
from tests.worker_pool import WorkerPool

LAYOUTS = [(tp, pp, dp) for tp in (1, 2) for pp in (1, 2) for dp in (1, 2)] + [(4, 1, 1), (1, 4, 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "tp{}-pp{}-dp{}".format(*layout))
@pytest.mark.parametrize("name", CASES)
def test_equal_to_a_single_process(
    worker_pool: WorkerPool, name: str, layout: tuple[int, int, int], dtype: torch.dtype
) -> None:
    tp, pp, dp = layout
    found, plan = train_parallel(
        worker_pool, name, dtype, tp * pp * dp, "local-cpu", tp=tp, pp=pp, dp=dp, micro_batch=2
    )
    assert (plan.tp, plan.pp, plan.dp, plan.micro_batches) == (tp, pp, dp, 4 // dp)
    if tp > 1:
        assert any(choice.layout.shard is not None for choice in plan.parameters), "tp shares no weight"
    assert_equal(found, single_process(name, dtype), tolerance(name, dtype))
