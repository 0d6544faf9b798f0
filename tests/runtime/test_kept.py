"""Training with modules that are kept whole: loss and gradients are those of a single process."""

from pathlib import Path
from typing import Any

import pytest
import torch

import autopart
from tests.kept_models import experts, experts_batch
from tests.worker_pool import WorkerPool

KEEP = ["blocks.*.experts"]


def _train(world: int, pins: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    par = autopart.parallelize(
        experts(), world, inputs=experts_batch(), global_batch=8, micro_batch=2, keep_whole=KEEP, **pins
    )
    loss = float(par.train_step(par.shard_batch(experts_batch())))
    gradients = par.full_gradients()
    optimizer = torch.optim.SGD(par.parameters(), lr=0.1)
    optimizer.step()
    return loss, gradients, par.full_state_dict()


@pytest.mark.parametrize(
    "pins",
    [
        {"tp": 2, "pp": 2},
        {"tp": 2, "pp": 2, "recompute": "full"},
        {"tp": 4},
        {"pp": 2, "dp": 2},
        {"tp": 2, "pp": 2, "cuts": ["blocks.1"]},
    ],
)
def test_experts_that_loop(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    model = experts()
    expected = model(*experts_batch())
    expected.backward()
    loss, gradients, state = worker_pool.run(_train, 4, 4, pins)[0]
    assert abs(loss - float(expected.detach())) < 1e-12
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-12, msg=name)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-8, atol=1e-12, msg=name)


def test_the_source_shows_the_call(tmp_path: Path) -> None:
    par = autopart.parallelize(
        experts(), 4, inputs=experts_batch(), global_batch=8, micro_batch=2, tp=2, pp=2, keep_whole=KEEP
    )
    text = "\n".join(path.read_text() for path in par.emit(tmp_path))
    assert 'self.kept["experts"](' in text
    assert "power=2.0)" in text
    assert "self.hold(kept={})" in text
