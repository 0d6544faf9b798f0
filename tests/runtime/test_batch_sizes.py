"""Batches of other sizes than planned: the last one of an epoch, indivisible ones, and unequal shares."""

from typing import Any

import pytest
import torch

import autopart
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

SIZES = (8, 7, 5, 4, 2)


def _cut(batch: Any, start: int, stop: int) -> Any:
    return tuple(item[start:stop] for item in batch)


def _train(name: str, world: int, pins: dict[str, Any]) -> list[tuple[float, dict[str, torch.Tensor]]]:
    case, batch = CASES[name], _items(name)
    par = autopart.parallelize(
        build(name, torch.float64), world, inputs=batch, loss=case.loss, global_batch=8, micro_batch=2, **pins
    )
    found = []
    for size in SIZES:
        for parameter in par.parameters():
            parameter.grad = None
        found.append((float(par.train_step(par.shard_batch(_cut(batch, 0, size)))), par.full_gradients()))
    return found


def _items(name: str) -> tuple[torch.Tensor, ...]:
    batch = CASES[name].batch(torch.float64)
    return tuple(batch.values()) if isinstance(batch, dict) else tuple(batch)


def _single(name: str, size: int) -> tuple[float, dict[str, torch.Tensor]]:
    case, model, batch = CASES[name], build(name, torch.float64), _cut(_items(name), 0, size)
    output = model(*batch)
    loss = case.loss(output, batch) if case.loss else output
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


# gpt counts unmasked targets, residual_mlp averages over samples: unequal shares must weigh by their own counts.
@pytest.mark.parametrize("name", ["gpt", "residual_mlp"])
@pytest.mark.parametrize(
    "pins",
    [{"pp": 2, "dp": 2}, {"tp": 2, "pp": 2, "recompute": "full"}, {"pp": 2, "dp": 2, "schedule": "zb-h1"}],
    ids=str,
)
def test_smaller_batches_are_exact(worker_pool: WorkerPool, name: str, pins: dict[str, Any]) -> None:
    found = worker_pool.run(one_capture, 4, _train, name, 4, pins)[0]
    for size, (loss, gradients) in zip(SIZES, found, strict=True):
        expected_loss, expected = _single(name, size)
        assert loss == pytest.approx(expected_loss, rel=1e-11), f"{size} samples"
        for key, gradient in expected.items():
            scale = max(float(gradient.abs().max()), 1e-3)
            assert float((gradients[key] - gradient).abs().max()) <= 1e-10 * scale, f"{key} with {size} samples"


def _own_shares() -> tuple[float, dict[str, torch.Tensor]]:
    batch = _items("gpt")
    par = autopart.parallelize(build("gpt", torch.float64), 2, inputs=batch, global_batch=8, micro_batch=2, dp=2)
    start, stop = ((0, 4), (4, 5))[torch.distributed.get_rank()]
    return float(par.train_step(_cut(batch, start, stop))), par.full_gradients()


def test_replicas_with_shares_of_their_own(worker_pool: WorkerPool) -> None:
    loss, gradients = worker_pool.run(one_capture, 2, _own_shares)[0]
    expected_loss, expected = _single("gpt", 5)
    assert loss == pytest.approx(expected_loss, rel=1e-11)
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-9, atol=1e-12)


def _rounds() -> tuple[str, float]:
    batch = _items("gpt")
    par = autopart.parallelize(
        build("gpt", torch.float64), 2, inputs=batch, global_batch=8, micro_batch=2, pp=2, schedule="interleaved-1f1b",
        virtual_stages=2,
    )  # fmt: skip
    try:
        par.train_step(_cut(batch, 0, 1))
    except autopart.BatchError as error:
        message = str(error)
    return message, float(par.train_step(_cut(batch, 0, 7)))


def test_a_batch_of_less_than_a_round_is_an_error(worker_pool: WorkerPool) -> None:
    for message, loss in worker_pool.run(one_capture, 2, _rounds):
        assert "a batch of 1 samples is 1 micro-batches of at most 2: schedule" in message
        assert "a multiple of 2 micro-batches on 2 ranks, not 1" in message
        assert loss == pytest.approx(_single("gpt", 7)[0], rel=1e-11)


def test_a_schedule_of_whole_rounds_takes_any_number_of_samples_from_a_round_up(worker_pool: WorkerPool) -> None:
    pins = {"pp": 2, "tp": 2, "schedule": "interleaved-1f1b", "virtual_stages": 2}
    found = worker_pool.run(one_capture, 4, _train, "residual_mlp", 4, pins)[0]
    for size, (loss, _) in zip(SIZES, found, strict=True):
        assert loss == pytest.approx(_single("residual_mlp", size)[0], rel=1e-11), f"{size} samples"
