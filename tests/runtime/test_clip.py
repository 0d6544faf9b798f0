"""Clipping by the norm of the whole model's gradients, beside torch's in a single process."""

from typing import Any

import pytest
import torch

import autopart
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

ORDERS = (2.0, 1.0, 3.0, float("inf"))
SMALL, LARGE = 0.01, 1e6  # a norm that clips, and one that does not


def _clip(world: int, pins: dict[str, Any]) -> list[tuple[float, dict[str, torch.Tensor]]]:
    batch = CASES["gpt"].batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), world, inputs=batch, global_batch=8, micro_batch=2, **pins)
    found = []
    for order in ORDERS:
        for max_norm in (SMALL, LARGE):
            for parameter in par.parameters():
                parameter.grad = None
            par.train_step(par.shard_batch(batch))
            found.append((float(par.clip_grad_norm_(max_norm, order)), par.full_gradients()))
    return found


def _expected() -> list[tuple[float, dict[str, torch.Tensor]]]:
    model, batch = build("gpt", torch.float64), CASES["gpt"].batch(torch.float64)
    found = []
    for order in ORDERS:
        for max_norm in (SMALL, LARGE):
            model.zero_grad()
            model(*batch).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, order)
            found.append((float(norm), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    return found


# The head is tied to the embedding: with pp=2 on two stages, which count it once.
@pytest.mark.parametrize("pins", [{"tp": 4}, {"pp": 2, "tp": 2}, {"pp": 2, "dp": 2, "zero": 3}, {"dp": 4}], ids=str)
def test_the_norm_is_that_of_the_whole_model(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    ranks = worker_pool.run(one_capture, 4, _clip, 4, pins)
    for position, (norm, gradients) in enumerate(_expected()):
        found = {rank[position][0] for rank in ranks}
        assert len(found) == 1, f"ranks disagree on the norm: {found}"
        assert found.pop() == pytest.approx(norm, rel=1e-12)
        for name, gradient in gradients.items():
            own = ranks[0][position][1][name]
            scale = float(gradient.abs().max())
            assert float((own - gradient).abs().max()) <= 1e-12 * max(scale, 1e-3), name


def _not_finite() -> tuple[float, str, str]:
    batch = CASES["gpt"].batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), 2, inputs=batch, global_batch=8, pp=2, micro_batch=4)
    par.train_step(par.shard_batch(batch))
    if torch.distributed.get_rank() == 1:
        gradients = [parameter.grad for parameter in par.parameters()]
        assert gradients[-1] is not None
        gradients[-1].fill_(float("inf"))
    try:
        par.clip_grad_norm_(1.0, error_if_nonfinite=True)
        message = ""
    except RuntimeError as error:
        message = str(error)
    try:
        par.clip_grad_norm_(1.0, 0)
        order = ""
    except autopart.UnsupportedError as error:
        order = str(error)
    return float(par.clip_grad_norm_(1.0)), message, order


def test_a_norm_that_is_not_finite(worker_pool: WorkerPool) -> None:
    for norm, message, order in worker_pool.run(one_capture, 2, _not_finite):
        assert norm == float("inf")
        assert "the norm of order 2.0 of all gradients is inf" in message
        assert "norm_type=0 is not the order of a norm" in order
