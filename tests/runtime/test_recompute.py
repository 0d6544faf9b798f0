"""Recomputation layer by layer: nothing changes but what is kept, random numbers included."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from autopart import api
from autopart.ir.graph import Graph
from autopart.ir.plan import PlanData
from autopart.ir.program import Program
from autopart.runtime.parallel import Parallel
from tests.capture.models import Attending
from tests.equality.parallel import Kinds, recomputing
from tests.worker_pool import WorkerPool

Trained = tuple[list[float], dict[str, torch.Tensor], int]
SAMPLES, LAYERS, WIDTH, HEADS, SEQUENCE = 4, 6, 32, 4, 24
NONE, SELECTIVE, FULL = (("none", 6),), (("selective", 6),), (("full", 6),)
MIXED = (("full", 2), ("selective", 2), ("none", 2))
EVERY_SECOND = tuple((kind, 1) for kind in ("none", "full") * 3)


def model_and_batch() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Attending(LAYERS, WIDTH, HEADS).double(), torch.randn(SAMPLES, SEQUENCE, WIDTH, dtype=torch.float64)


@cache
def prepared() -> api.Prepared:
    model, x = model_and_batch()
    return api.prepare(model, (x,))


def train(pool: WorkerPool, world: int, choices: Sequence[Kinds], **pins: Any) -> list[Trained]:
    """What rank 0 finds for each of the choices."""
    asked = api.Pins(micro_batch=2, recompute="none", **pins)
    own = api.make_plan(prepared(), world, "local-cpu", SAMPLES, asked)
    plain = PlanData(**{item.name: getattr(own, item.name) for item in fields(PlanData)})
    plans = [recomputing(plain, kinds) for kinds in choices]
    runs = [(plan, api.make_program(plan, prepared())) for plan in plans]
    captured = prepared().captured
    found: list[Trained] = pool.run(_train, world, runs, captured.graph, dict(captured.constants))[0]
    return found


def _train(runs: Sequence[tuple[PlanData, Program]], graph: Graph, constants: dict[str, torch.Tensor]) -> list[Trained]:
    """For each run the losses of two steps, the gradients of both, and the bytes that autograd kept in the second."""
    found = []
    for plan, program in runs:
        model, x = model_and_batch()
        par = Parallel(plan, program, graph, model, constants)
        losses = [float(par.train_step(x))]
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses.append(float(par.train_step(x)))
        activations = (tensor for tensor in kept.values() if not isinstance(tensor, nn.Parameter))
        size = sum(tensor.untyped_storage().nbytes() for tensor in activations)
        found.append((losses, par.full_gradients(), size))
    return found


@pytest.mark.parametrize("pins", [{"tp": 2}, {"pp": 2}, {"pp": 2, "schedule": "zb-h1"}], ids=str)
def test_dropout_is_replayed(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    """To the last bit: what is computed again draws the numbers that it drew before."""
    choices = (NONE, SELECTIVE, FULL, MIXED, EVERY_SECOND)
    (losses, gradients, _), *others = train(worker_pool, 2, choices, **pins)
    assert losses[0] != losses[1], "every step drops the same"
    for kinds, (own, found, _) in zip(choices[1:], others, strict=True):
        assert own == losses, kinds
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert torch.equal(found[name], gradient), (kinds, name)


def test_less_is_kept(worker_pool: WorkerPool) -> None:
    choices = (NONE, SELECTIVE, FULL, MIXED)
    none, selective, full, mixed = (size for _, _, size in train(worker_pool, 1, choices))
    assert full < selective < none
    assert mixed == pytest.approx((full + selective + none) / 3, rel=0.01)
    scores = 8 * SAMPLES * HEADS * SEQUENCE**2 * LAYERS
    assert none - selective == 3 * scores  # what softmax gives, what dropout multiplies it by, and what is left of it
