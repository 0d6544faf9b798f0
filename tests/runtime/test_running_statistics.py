"""Batch norms in training: statistics of each micro-batch, and running ones that end as in one process."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autopart
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

STEPS = 3


class Convolutional(nn.Module):
    """Four equal blocks with batch norms, and one more after the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, momentum=0.3), nn.ReLU())
            for _ in range(4)
        )
        self.head = nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x: (batch, 2, 6, 6), target: (batch,)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return F.cross_entropy(self.norm(self.head(x.mean((2, 3)))), target)


def model() -> Convolutional:
    torch.manual_seed(0)
    return Convolutional().double()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(8, 2, 6, 6, generator=generator).double(), "target": torch.arange(8) % 4}


def one_process(micro_batch: int) -> dict[str, torch.Tensor]:
    """The state after training with gradients accumulated over micro-batches."""
    alone, data = model(), batch()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for start in range(0, 8, micro_batch):
            piece = {name: item[start : start + micro_batch] for name, item in data.items()}
            (alone(**piece) * micro_batch / 8).backward()
        optimizer.step()
    return deepcopy(alone.state_dict())


def train(world: int, pins: dict[str, Any]) -> dict[str, torch.Tensor]:
    par = autopart.parallelize(model(), world, inputs=batch(), global_batch=8, **pins)
    optimizer = torch.optim.SGD(par.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        par.train_step(par.shard_batch(batch()))
        optimizer.step()
    return par.full_state_dict()


@pytest.mark.parametrize(
    ("world", "pins"),
    [
        (2, {"tp": 2, "micro_batch": 8}),
        (4, {"tp": 2, "pp": 2, "micro_batch": 4}),
        (2, {"pp": 2, "micro_batch": 2, "recompute": "full"}),
        (2, {"pp": 2, "micro_batch": 4, "schedule": "gpipe"}),
    ],
    ids=str,
)
def test_weights_and_running_statistics_end_as_in_one_process(
    worker_pool: WorkerPool, world: int, pins: dict[str, Any]
) -> None:
    found, expected = worker_pool.run(one_capture, world, train, world, pins)[0], one_process(pins["micro_batch"])
    assert found.keys() == expected.keys()
    assert int(found["norm.num_batches_tracked"]) == STEPS * 8 // pins["micro_batch"]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: name + text)


def test_the_plan_says_that_samples_are_mixed() -> None:
    plan = autopart.plan(model(), 2, cluster="local-cpu", inputs=batch(), global_batch=8, dp=2)
    assert any("mixes the samples" in note.text for note in plan.notes)
