"""Schedules, recomputation, cuts, prices and batch divisions leave the numbers as they are."""

from typing import Any

import pytest
import torch

from cost_models.cluster import load_cluster
from cost_models.mixed_cluster import MixedCluster, NodeGroup
from tests.equality.parallel import train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.worker_pool import WorkerPool

HELD = (("weight", "R"), ("bias", "S(0)"))
POLICIES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("gpt", 4, "local-cpu", {"pp": 2, "tp": 2, "recompute": "full", "micro_batch": 2}),
    ("llama", 2, "local-cpu", {"pp": 2, "recompute": "full", "micro_batch": 1}),
    ("gpt", 2, "local-cpu", {"tp": 2, "recompute": "full:1/2", "micro_batch": 2}),
    ("llama", 4, "local-cpu", {"tp": 2, "pp": 2, "recompute": "selective", "schedule": "zb-h1", "micro_batch": 2}),
    ("t5", 2, "local-cpu", {"tp": 2, "recompute": "selective", "micro_batch": 2}),
    ("gpt2", 4, "local-cpu", {"pp": 4, "schedule": "gpipe", "micro_batch": 1}),
    ("gpt", 4, "local-cpu", {"pp": 4, "schedule": "gpipe", "micro_batch": 4}),
    ("gpt", 3, "local-cpu", {"pp": 3, "micro_batch": 8}),
    ("gpt", 2, "local-cpu", {"pp": 2, "cuts": ("blocks.3",), "micro_batch": 2}),
    ("residual_mlp", 4, "local-cpu", {"pp": 4, "cuts": ("layers.0", "layers.1", "leave"), "micro_batch": 1}),
    ("conv_net", 3, "local-cpu", {"pp": 3, "cuts": ("conv1", "conv3"), "micro_batch": 2}),
    ("gpt", 8, "local-cpu", {"dp": 8, "micro_batch": 1}),
    # Weights held as no search would: whole but computed with in shards, by rows where columns would do.
    ("gpt", 4, "local-cpu", {"tp": 4, "micro_batch": 2, "placements": {f"blocks.*.mlp.up.{x}": y for x, y in HELD}}),
    (
        "llama",
        4,
        "dgx-h100",
        {"tp": 2, "pp": 2, "micro_batch": 4, "placements": {"model.layers.*.mlp.*.weight": "S(1)"}},
    ),
    # Prices of another machine give other layouts: sequence parallelism, partial sums carried further.
    ("gpt", 4, "dgx-h100", {"tp": 4, "micro_batch": 8}),
    ("llama", 4, "dgx-h100", {"tp": 2, "pp": 2, "micro_batch": 4, "recompute": "full"}),
]


@pytest.mark.parametrize(("name", "world", "cluster", "pins"), POLICIES, ids=lambda x: str(x).replace(" ", ""))
def test_policies(worker_pool: WorkerPool, name: str, world: int, cluster: str, pins: dict[str, Any]) -> None:
    found, plan = train_parallel(worker_pool, name, torch.float64, world, cluster, **pins)
    for pin, value in pins.items():
        if pin not in ("cuts", "placements"):
            assert getattr(plan, pin) == value
    assert_equal(found, single_process(name, torch.float64), tolerance(name, torch.float64))


def test_stages_on_several_kinds_of_nodes(worker_pool: WorkerPool) -> None:
    """Two ranks as of an H100 node, two as of an A100 node."""
    kinds = [load_cluster(name) for name in ("dgx-h100", "dgx-a100")]
    mixed = MixedCluster("two kinds", tuple(NodeGroup(own, 2) for own in kinds), kinds[1].inter_node, ())
    found, plan = train_parallel(worker_pool, "gpt", torch.float64, 4, mixed, tp=2, pp=2, micro_batch=2)
    assert {stage.device for stage in plan.stages} == {own.device.name for own in kinds}
    assert_equal(found, single_process("gpt", torch.float64), tolerance("gpt", torch.float64))
