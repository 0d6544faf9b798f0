"""ZeRO-1, 2 and 3 leave the numbers as they are, on every layout and schedule."""

from typing import Any

import pytest
import torch

from tests.equality.parallel import train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.worker_pool import WorkerPool

LAYOUTS: list[tuple[str, int, dict[str, Any]]] = [
    ("gpt", 2, {"zero": 1, "dp": 2, "micro_batch": 4}),
    ("gpt", 4, {"zero": 1, "dp": 2, "pp": 2, "micro_batch": 1}),
    ("llama", 4, {"zero": 1, "dp": 2, "tp": 2, "micro_batch": 2}),
    ("conv_net", 4, {"zero": 1, "dp": 4, "micro_batch": 1}),
    ("gpt", 4, {"zero": 1, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "interleaved-1f1b", "virtual_stages": 2}),
    ("gpt", 4, {"zero": 1, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "zb-v", "virtual_stages": 2}),
    ("gpt", 8, {"zero": 1, "dp": 2, "pp": 2, "tp": 2, "micro_batch": 1, "schedule": "zb-h1"}),
    ("gpt", 2, {"zero": 2, "dp": 2, "micro_batch": 4}),
    ("gpt2", 4, {"zero": 2, "dp": 4, "micro_batch": 1}),
    ("gpt", 8, {"zero": 2, "dp": 2, "pp": 2, "tp": 2, "micro_batch": 1, "recompute": "full"}),
    ("residual_mlp", 4, {"zero": 2, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "gpipe"}),
    ("gpt", 4, {"zero": 2, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "interleaved-1f1b", "virtual_stages": 2}),
    ("gpt", 2, {"zero": 3, "dp": 2, "micro_batch": 4}),
    ("conv_net", 4, {"zero": 3, "dp": 4, "micro_batch": 1}),
    ("llama", 8, {"zero": 3, "dp": 2, "pp": 2, "tp": 2, "micro_batch": 1, "recompute": "full"}),
    ("residual_mlp", 4, {"zero": 3, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "gpipe"}),
    ("gpt2", 4, {"zero": 3, "dp": 2, "pp": 2, "micro_batch": 1, "recompute": "selective"}),
    ("gpt", 4, {"zero": 3, "dp": 2, "pp": 2, "micro_batch": 1, "schedule": "interleaved-1f1b", "virtual_stages": 2}),
]


@pytest.mark.parametrize(("name", "world", "pins"), LAYOUTS, ids=lambda x: str(x).replace(" ", ""))
def test_zero(worker_pool: WorkerPool, name: str, world: int, pins: dict[str, Any]) -> None:
    found, plan = train_parallel(worker_pool, name, torch.float64, world, "local-cpu", **pins)
    for pin, value in pins.items():
        assert getattr(plan, pin) == value
    assert_equal(found, single_process(name, torch.float64), tolerance(name, torch.float64))
