"""ZeRO keeps the user's contract: torch optimizers and what stands around them, checkpoints, a share of the bytes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from tests.models import CASES, build
from tests.worker_pool import WorkerPool

DTYPE = torch.float64
SEARCHED: dict[str, Any] = {"recompute": "none", "schedule": "1f1b", "virtual_stages": 1}  # not what is tested here
FROZEN = ("norm1", "blocks.2.")
Pins = dict[str, Any]


def _groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """As many scripts have it: no decay of norms and biases, told by their dims; another rate by name."""
    trained = [(name, p) for name, p in named if p.requires_grad]
    return [
        {"params": [p for _, p in trained if p.dim() >= 2], "weight_decay": 0.3},
        {"params": [p for name, p in trained if p.dim() < 2 and "mlp" in name], "weight_decay": 0.0, "lr": 0.05},
        {"params": [p for name, p in trained if p.dim() < 2 and "mlp" not in name], "weight_decay": 0.0},
    ]


def _model() -> nn.Module:
    model = build("gpt", DTYPE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in FROZEN))
    return model


def _train(par: Any, steps: int, step: Callable[[torch.Tensor, torch.Tensor], None]) -> torch.optim.Optimizer:
    """AdamW in groups, clipped, with a schedule of rates; a step adds up a batch of seven samples and one of four."""
    tokens, labels = CASES["gpt"].batch(DTYPE)
    tokens, labels = tokens.repeat(2, 1), labels.repeat(2, 1)
    optimizer = torch.optim.AdamW(_groups(par.named_parameters()), lr=0.02, eps=1e-3, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    for _ in range(steps):
        optimizer.zero_grad()
        step(tokens[:7], labels[:7])
        step(tokens[7:11], labels[7:11])
        if isinstance(par, nn.Module):
            torch.nn.utils.clip_grad_norm_(par.parameters(), 0.5)
        else:
            par.clip_grad_norm_(0.5)
        optimizer.step()
        scheduler.step()
    return optimizer


def _expected(steps: int) -> tuple[dict[str, torch.Tensor], float]:
    model = _model()
    _train(model, steps, lambda tokens, labels: model(tokens, labels).backward())
    with torch.no_grad():
        return dict(model.state_dict()), float(model(*CASES["gpt"].batch(DTYPE)))


def _contract(world: int, pins: Pins) -> Any:
    batch = CASES["gpt"].batch(DTYPE)
    par = autopart.parallelize(_model(), world, inputs=batch, global_batch=8, micro_batch=1, **SEARCHED | pins)
    optimizer = _train(par, 3, lambda tokens, labels: par.train_step(par.shard_batch((tokens, labels))) and None)
    frozen = [p.dim() for p in par.parameters() if not p.requires_grad]
    assert frozen and all(p.dim() for p in par.parameters())
    evaluated = float(par.evaluate(par.shard_batch(batch)))
    held = sum(x.numel() for state in optimizer.state.values() for key, x in state.items() if key != "step")
    return par.full_state_dict(), evaluated, held


@pytest.mark.parametrize(
    "pins",
    [
        {"zero": 1, "dp": 4},
        {"zero": 1, "dp": 2, "pp": 2, "schedule": "zb-h1"},
        {"zero": 2, "dp": 2, "tp": 2},
        {"zero": 2, "dp": 2, "pp": 2},
    ],
    ids=str,
)
def test_groups_rates_clipping_frozen_weights_and_uneven_batches(worker_pool: WorkerPool, pins: Pins) -> None:
    state, loss = _expected(3)
    ranks = worker_pool.run(_contract, 4, 4, pins)
    assert ranks[0][0].keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(ranks[0][0][name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    assert [rank[1] for rank in ranks] == pytest.approx([loss] * 4, rel=1e-9)


def _bytes(world: int, pins: Pins) -> dict[str, int]:
    """Of distinct storages that the rank holds after a step, and what the plan predicts of them."""
    batch = CASES["gpt"].batch(DTYPE)
    par = autopart.parallelize(
        build("gpt", DTYPE), world, inputs=batch, global_batch=8, micro_batch=1, **SEARCHED | pins
    )
    optimizer = torch.optim.Adam(par.parameters())
    par.train_step(par.shard_batch(batch))
    optimizer.step()
    assert par.module is not None
    moments = [x for state in optimizer.state.values() for key, x in state.items() if key != "step"]
    memory = par.plan.stages[torch.distributed.get_rank() // (world // par.plan.pp)].memory
    return {
        "parameters": _stored(par.module.parameters()),
        "pieces": _stored(par.parameters()),
        "gradients": _stored(p.grad for p in par.parameters() if p.grad is not None),
        "whole gradients": _stored(p.grad for p in par.module.parameters() if p.grad is not None),
        "optimizer": sum(x.nbytes for x in moments),
        "predicted parameters": memory.parameters_bytes,
        "predicted gradients": memory.gradients_bytes,
        "predicted optimizer": memory.optimizer_bytes,
    }


def _stored(tensors: Iterable[torch.Tensor]) -> int:
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


@pytest.mark.parametrize("pins", [{"dp": 2, "zero": z} for z in (0, 1, 2)] + [{"dp": 2, "pp": 2, "zero": 2}], ids=str)
def test_each_rank_holds_what_the_plan_predicts(worker_pool: WorkerPool, pins: Pins) -> None:
    """Up to 3 %: parameters begin at multiples of 128 bytes, and this model has many small ones."""
    world = pins["dp"] * pins.get("pp", 1)
    for found in worker_pool.run(_bytes, world, world, pins):
        for what in ("parameters", "gradients", "optimizer"):
            assert found[what] == pytest.approx(found[f"predicted {what}"], rel=0.03), what
        if pins["zero"]:
            assert found["pieces"] == found["parameters"], "pieces are views of the weights"
            assert found["whole gradients"] == 0


def _saved(world: int, pins: Pins, directory: Path, steps: int, first: Path | None = None) -> dict[str, torch.Tensor]:
    """Trains `steps`, from a checkpoint `first` if there is one, and saves."""
    torch.manual_seed(7)
    batch = CASES["gpt"].batch(DTYPE)
    par = autopart.parallelize(
        build("gpt", DTYPE), world, inputs=batch, global_batch=8, micro_batch=2, **SEARCHED | pins
    )
    optimizer = torch.optim.AdamW(_groups(par.named_parameters()), lr=0.01)
    if first is not None:
        with torch.no_grad():
            for parameter in par.parameters():
                parameter.fill_(0.125)
        par.load(first, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        par.train_step(par.shard_batch(batch))
        optimizer.step()
    par.save(directory, optimizer)
    return par.full_state_dict()


def test_checkpoints_move_between_zero_stages_and_layouts(worker_pool: WorkerPool, tmp_path: Path) -> None:
    expected = worker_pool.run(_saved, 1, 1, {}, tmp_path / "one", 4)[0]
    # A tied embedding on two pipeline ranks, whose pieces there are cut at other places than elsewhere.
    worker_pool.run(_saved, 4, 4, {"zero": 1, "dp": 2, "pp": 2}, tmp_path / "zero", 2)
    stops: list[tuple[int, Pins]] = [
        (1, {}),
        (4, {"zero": 2, "dp": 4}),
        (8, {"zero": 1, "dp": 2, "tp": 2, "pp": 2}),
        (4, {"dp": 2, "tp": 2}),
    ]
    for number, (world, pins) in enumerate(stops):
        again = tmp_path / str(number)
        worker_pool.run(_saved, world, world, pins, again, 1, tmp_path / "zero")
        last = worker_pool.run(_saved, 2, 2, {"zero": 1, "dp": 2}, tmp_path / f"{number}.end", 1, again)[0]
        assert last.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(last[name], tensor, rtol=1e-9, atol=1e-12, msg=f"{name} over {pins}")


def _uneven(pins: Pins) -> str:
    batch = CASES["gpt"].batch(DTYPE)
    par = autopart.parallelize(build("gpt", DTYPE), 4, inputs=batch, global_batch=8, micro_batch=1, **SEARCHED | pins)
    try:
        par.train_step(tuple(item[: 2 if torch.distributed.get_rank() % 2 else 4] for item in batch))
    except autopart.BatchError as error:
        return str(error)
    return ""


def test_replicas_whose_passes_cannot_be_summed_together(worker_pool: WorkerPool) -> None:
    pins = {"zero": 2, "dp": 2, "pp": 2, "schedule": "interleaved-1f1b", "virtual_stages": 2}
    for message in worker_pool.run(_uneven, 4, pins):
        assert "equally many micro-batches, and they have 2 to 4: give them shares of one size" in message
