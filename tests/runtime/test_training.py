"""Training beyond one step: accumulated gradients, AdamW, frozen and unused parameters, dropout, the state dict."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import autopart
from tests.equality.single import single_process
from tests.models import CASES, build
from tests.worker_pool import WorkerPool


def _accumulate(world: int, pins: dict[str, int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    batch = CASES["gpt"].batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), world, inputs=batch, global_batch=8, micro_batch=2, **pins)
    par.train_step(par.shard_batch(batch))
    once = par.full_gradients()
    par.train_step(par.shard_batch(batch))
    return once, par.full_gradients()


def test_gradients_of_two_steps_add_up(worker_pool: WorkerPool) -> None:
    once, twice = worker_pool.run(_accumulate, 4, 4, {"dp": 2, "pp": 2})[0]
    expected = single_process("gpt", torch.float64).gradients[0]
    for name, gradient in expected.items():
        torch.testing.assert_close(once[name], gradient, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(twice[name], 2 * gradient, rtol=1e-8, atol=1e-12)


class Awkward(nn.Module):
    """A frozen layer, an unused one, a buffer, and weights shared by two layers far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.first = nn.Linear(8, 16)
        self.unused = nn.Linear(3, 3)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.last = nn.Linear(8, 16)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """x: (batch, 8), target: (batch, 16)."""
        hidden = self.middle(self.first(self.frozen(x)))
        return {"loss": F.mse_loss(self.last(hidden[:, :8] * self.scale), target)}


def _awkward_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(8, width, generator=generator, dtype=torch.float64) for width in (8, 16))
    return {"x": x, "target": target}


def _awkward() -> Awkward:
    torch.manual_seed(0)
    return Awkward().double()


def _train_awkward(world: int, pins: dict[str, Any]) -> dict[str, torch.Tensor]:
    batch = _awkward_batch()
    par = autopart.parallelize(_awkward(), world, inputs=batch, global_batch=8, micro_batch=2, **pins)
    optimizer = torch.optim.AdamW([p for p in par.parameters() if p.requires_grad], lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        par.train_step(par.shard_batch(batch))
        optimizer.step()
    return par.full_state_dict()


def test_an_awkward_model_with_adamw(worker_pool: WorkerPool) -> None:
    model, batch = _awkward(), _awkward_batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    expected = model.state_dict()
    for world, pins in ((4, {"tp": 2, "pp": 2}), (3, {"pp": 3}), (4, {"pp": 2, "dp": 2})):
        state = worker_pool.run(_train_awkward, world, world, pins)[0]
        _awkward().load_state_dict(state, strict=True)
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-8, atol=1e-10, msg=f"{name} with {pins}")
        for name in ("frozen.weight", "unused.weight", "scale"):
            assert torch.equal(state[name], before[name])


class Dropping(nn.Module):
    """Dropout between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 16) -> mean square."""
        return self.down(F.dropout(self.up(x), 0.5, self.training)).square().mean()


def _drop(tp: int, recompute: str) -> list[float]:
    torch.manual_seed(0)
    x = torch.randn(8, 16, dtype=torch.float64)
    model = Dropping().double()
    par = autopart.parallelize(model, tp, inputs=(x,), tp=tp, global_batch=8, micro_batch=4, recompute=recompute)
    losses = [float(par.train_step(x)) for _ in range(20)]
    assert len({round(loss, 12) for loss in losses}) == 20, "every step drops the same"
    return losses


def test_dropout_is_reproduced_and_agrees_with_a_single_process_on_average(worker_pool: WorkerPool) -> None:
    runs = worker_pool.run(_drop, 2, 2, "none")
    assert runs[0] == runs[1] == worker_pool.run(_drop, 2, 2, "none")[0]
    single = worker_pool.run(_drop, 1, 1, "none")[0]
    assert abs(sum(runs[0]) / sum(single) - 1) < 0.1


class Weighted(nn.Module):
    """Takes a vector that belongs to no sample, though it is as long as a replica's share of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4), weights: (4,) -> mean."""
        return (self.layer(x) * weights).square().mean()


def _weighted() -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    x, weights = torch.randn(8, 4, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
    par = autopart.parallelize(Weighted().double(), 2, inputs=(x, weights), dp=2, global_batch=8, micro_batch=2)
    return float(par.train_step(par.shard_batch((x, weights)))), par.full_gradients()


def test_what_has_no_samples_is_never_cut(worker_pool: WorkerPool) -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(8, 4, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
    model = Weighted().double()
    expected = model(x, weights)
    expected.backward()
    loss, gradients = worker_pool.run(_weighted, 2)[0]
    assert abs(loss - float(expected.detach())) < 1e-12
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-12, atol=1e-14)


class Reflecting(nn.Module):
    """Runs its layers once without gradients, and again with them; parameters are used in both."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8), target: (batch, 8)."""
        with torch.no_grad():
            first = x
            for layer in self.layers:
                first = first + layer(first)
        for layer in self.layers:
            x = x + layer(x + first)
        return F.mse_loss(x, target)


def _reflect(world: int, pins: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    batch = {name: torch.randn(8, 8).double() for name in ("x", "target")}
    par = autopart.parallelize(Reflecting().double(), world, inputs=batch, global_batch=8, micro_batch=4, **pins)
    return float(par.train_step(par.shard_batch(batch))), par.full_gradients()


def test_regions_without_gradients_give_none(worker_pool: WorkerPool) -> None:
    torch.manual_seed(0)
    batch = {name: torch.randn(8, 8).double() for name in ("x", "target")}
    model = Reflecting().double()
    expected = model(**batch)
    expected.backward()
    loss, gradients = worker_pool.run(_reflect, 4, 4, {"tp": 2, "pp": 2})[0]
    assert abs(loss - float(expected.detach())) < 1e-12
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12)
