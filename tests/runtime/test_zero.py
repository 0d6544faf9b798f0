"""ZeRO keeps the user's contract: torch optimizers and what stands around them, checkpoints, a share of the bytes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from tests.models import CASES, build
from tests.one_capture import one_capture
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
    par = autopart.parallelize(_model(), world, inputs=batch, global_batch=8, **{"micro_batch": 1} | SEARCHED | pins)
    optimizer = _train(par, 3, lambda tokens, labels: par.train_step(par.shard_batch((tokens, labels))) and None)
    frozen = [p.dim() for p in par.parameters() if not p.requires_grad]
    assert (frozen or torch.distributed.get_rank()) and all(p.dim() for p in par.parameters())
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
        {"zero": 3, "dp": 2, "pp": 2, "micro_batch": 2},
    ],
    ids=str,
)
def test_groups_rates_clipping_frozen_weights_and_uneven_batches(worker_pool: WorkerPool, pins: Pins) -> None:
    state, loss = _expected(3)
    ranks = worker_pool.run(one_capture, 4, _contract, 4, pins)
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
    assert par.module is not None
    shares = par._inside()._shares
    buffers = shares.buffers.values() if shares else ()
    most = [0]
    for block in par.module.stacks[0]:
        block.register_forward_pre_hook(lambda *_: most.append(_stored(buffers)))
        block.register_full_backward_hook(lambda *_: most.append(_stored(buffers)))
    par.train_step(par.shard_batch(batch))
    optimizer.step()
    moments = [x for state in optimizer.state.values() for key, x in state.items() if key != "step"]
    memory = par.plan.stages[torch.distributed.get_rank() // (world // par.plan.pp)].memory
    return {
        "parameters": _stored(par.module.parameters()),
        "most": max(most),
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


@pytest.mark.parametrize("pins", [{"dp": 2, "zero": z} for z in range(4)] + [{"dp": 2, "pp": 2, "zero": 2}], ids=str)
def test_each_rank_holds_what_the_plan_predicts(worker_pool: WorkerPool, pins: Pins) -> None:
    """Up to 3 %: parameters begin at multiples of 128 bytes, and this model has many small ones."""
    world = pins["dp"] * pins.get("pp", 1)
    for found in worker_pool.run(one_capture, world, _bytes, world, pins):
        for what in ("parameters", "gradients", "optimizer"):
            own = "pieces" if what == "parameters" and pins["zero"] == 3 else what
            assert found[own] == pytest.approx(found[f"predicted {what}"], rel=0.03), what
        if pins["zero"]:
            assert found["whole gradients"] == 0
        if pins["zero"] in (1, 2):
            assert found["pieces"] == found["parameters"], "pieces are views of the weights"
        if pins["zero"] == 3:
            assert found["parameters"] == 0, "between steps a rank has its pieces alone"
            assert found["most"] == pytest.approx(_two_blocks_and_what_is_outside(), rel=0.05)


def _two_blocks_and_what_is_outside() -> int:
    """Bytes of the model's parameters with two of its four blocks."""
    return sum(
        p.nbytes for name, p in build("gpt", DTYPE).named_parameters() if not name.startswith(("blocks.2", "blocks.3"))
    )


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
    expected = worker_pool.run(one_capture, 1, _saved, 1, {}, tmp_path / "one", 4)[0]
    # A tied embedding on two pipeline ranks, whose pieces there are cut at other places than elsewhere.
    worker_pool.run(one_capture, 4, _saved, 4, {"zero": 1, "dp": 2, "pp": 2}, tmp_path / "zero", 2)
    stops: list[tuple[int, Pins]] = [
        (1, {}),
        (4, {"zero": 2, "dp": 4}),
        (8, {"zero": 1, "dp": 2, "tp": 2, "pp": 2}),
        (4, {"zero": 3, "dp": 2, "tp": 2}),
    ]
    for number, (world, pins) in enumerate(stops):
        again = tmp_path / str(number)
        worker_pool.run(one_capture, world, _saved, world, pins, again, 1, tmp_path / "zero")
        last = worker_pool.run(one_capture, 2, _saved, 2, {"zero": 1, "dp": 2}, tmp_path / f"{number}.end", 1, again)[0]
        assert last.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(last[name], tensor, rtol=1e-9, atol=1e-12, msg=f"{name} over {pins}")


def _uneven(pins: Pins) -> tuple[str, float, float]:
    """What a batch gives of which one replica has two samples and the other four, and then one of two and three."""
    tokens, labels = CASES["gpt"].batch(DTYPE)
    batch = CASES["gpt"].batch(DTYPE)
    par = autopart.parallelize(build("gpt", DTYPE), 4, inputs=batch, global_batch=8, **SEARCHED | pins)
    replica = int(par.shard_batch((tokens, labels))[0].data_ptr() != tokens.data_ptr())

    def own(*ends: int) -> Any:
        return tuple(item[(0, *ends)[replica] : ends[replica]] for item in batch)

    message = ""
    try:
        par.train_step(own(4, 5))
    except autopart.BatchError as error:
        message = str(error)
    evaluated = float(par.evaluate(own(3, 5)))
    return message, float(par.train_step(own(3, 5))), evaluated


@pytest.mark.parametrize(
    ("pins", "why"),
    [
        (
            {"zero": 2, "dp": 2, "pp": 2, "micro_batch": 2, "schedule": "interleaved-1f1b", "virtual_stages": 2},
            "a batch of 1 samples is 1 micro-batches of at most 2",
        ),
        (
            {"zero": 3, "dp": 2, "pp": 2, "micro_batch": 2},
            "under zero=3 replicas must have equally many micro-batches, and this one has 1 samples for the 2 of "
            "another",
        ),
    ],
    ids=str,
)
def test_replicas_run_equally_many_passes(worker_pool: WorkerPool, pins: Pins, why: str) -> None:
    """Shares of two and three samples are two micro-batches each; of one sample there are no two."""
    with torch.no_grad():
        expected = float(build("gpt", DTYPE)(*(item[:5] for item in CASES["gpt"].batch(DTYPE))))
    ranks = worker_pool.run(one_capture, 4, _uneven, pins)
    for _, trained, evaluated in ranks:
        assert (trained, evaluated) == pytest.approx((expected, expected), rel=1e-11)
    own = [message.partition(":")[0] for message, _, _ in ranks]
    other = "rank 3 cannot take its batch, and its own error says why"
    assert own == [other, why, other, why]


class Repeated(nn.Module):
    """Two equal layers, of biases of their own and one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> mean square."""
        return self.second(self.first(self.enter(x).tanh()).tanh()).square().mean()


def _repeated(par: Any) -> list[float]:
    x = torch.linspace(-1, 1, 64, dtype=DTYPE).view(8, 8)
    optimizer = torch.optim.SGD(par.parameters(), lr=0.5)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        if isinstance(par, nn.Module):
            loss = par(x)
            loss.backward()
        else:
            loss = par.train_step(par.shard_batch(x))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


def _repeated_in_parallel() -> tuple[list[float], str]:
    torch.manual_seed(0)
    x = torch.zeros(8, 8, dtype=DTYPE)
    pins: Pins = {"dp": 2, "zero": 3, "inputs": x, "global_batch": 8, "micro_batch": 2, **SEARCHED}
    par = autopart.parallelize(Repeated().to(DTYPE), 2, **pins)
    return _repeated(par), par.program.sources[0][1]


def test_a_weight_that_blocks_are_given_is_there_for_all_of_them(worker_pool: WorkerPool) -> None:
    torch.manual_seed(0)
    expected = _repeated(Repeated().to(DTYPE))
    losses, source = worker_pool.run(_repeated_in_parallel, 2)[0]
    assert "x = block(x, self.first.weight)" in source
    assert losses == pytest.approx(expected, rel=1e-12)
