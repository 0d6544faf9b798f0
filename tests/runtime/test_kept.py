"""Training with modules that are kept whole: loss and gradients are those of a single process."""

from pathlib import Path
from typing import Any

import pytest
import torch

import autopart
from tests.kept_models import KEEP, build, experts, experts_batch
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

# Two stages of a rank keep modules with one weight between them.
LOOPED: dict[str, Any] = {"pp": 2, "virtual_stages": 2, "cuts": ["blocks.0", "blocks.1", "blocks.2"]}


def _train(
    name: str, world: int, pins: dict[str, Any]
) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    par = autopart.parallelize(
        build(name), world, inputs=experts_batch(), global_batch=8, micro_batch=2, keep_whole=KEEP[name], **pins
    )
    loss = float(par.train_step(par.shard_batch(experts_batch())))
    gradients = par.full_gradients()
    optimizer = torch.optim.SGD(par.parameters(), lr=0.1)
    optimizer.step()
    return loss, gradients, par.full_state_dict()


@pytest.mark.parametrize(
    ("name", "pins"),
    [
        ("experts", {"tp": 2, "pp": 2}),
        ("experts", {"tp": 2, "pp": 2, "recompute": "full"}),
        ("experts", {"tp": 4}),
        ("experts", {"pp": 2, "dp": 2, "zero": 3}),
        ("experts", {"tp": 2, "pp": 2, "cuts": ["blocks.1"]}),
        ("quantized", {"tp": 2, "pp": 2}),
        ("quantized", {"tp": 2, "dp": 2, "recompute": "full", "zero": 3}),
        ("tied", {"tp": 2, "dp": 2, "zero": 3}),
        ("tied", {"tp": 2, "pp": 2}),
        ("tied", {"tp": 1, "pp": 4}),
        ("teaching", {"tp": 2, "pp": 2}),
        ("experts", {**LOOPED, "dp": 2}),
        ("experts", {**LOOPED, "dp": 2, "zero": 3}),
    ],
)
def test_loss_and_gradients(worker_pool: WorkerPool, name: str, pins: dict[str, Any]) -> None:
    model = build(name)
    expected = model(*experts_batch())
    expected.backward()
    loss, gradients, state = worker_pool.run(one_capture, 4, _train, name, 4, pins)[0]
    assert abs(loss - float(expected.detach())) < 1e-12 * max(1.0, float(expected.detach()))
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[path], parameter.grad, rtol=1e-8, atol=1e-12, msg=path)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert state.keys() == model.state_dict().keys()
    for path, tensor in model.state_dict().items():
        torch.testing.assert_close(state[path], tensor, rtol=1e-8, atol=1e-12, msg=path)


def test_the_source_shows_the_call(tmp_path: Path) -> None:
    par = autopart.parallelize(
        experts(), 4, inputs=experts_batch(), global_batch=8, micro_batch=2, tp=2, pp=2, keep_whole=KEEP["experts"]
    )
    text = "\n".join(path.read_text() for path in par.emit(tmp_path))
    assert 'self.kept["experts"](' in text
    assert "power=2.0)" in text
    assert "self.hold(kept={})" in text


def test_the_source_shows_the_function(tmp_path: Path) -> None:
    par = autopart.parallelize(build("quantized"), 2, inputs=experts_batch(), global_batch=8, micro_batch=2, tp=2)
    text = "\n".join(path.read_text() for path in par.emit(tmp_path))
    half = "(b, 6, 32)"  # of the width: it is elementwise
    assert f'straight = self.kept["tests.kept_models:Straight"](up, 0.125)  # {half}' in text
