"""What users do around `train_step`: any optimizer, schedules of the learning rate, groups by name, frozen weights."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autopart
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

STEPS = 4
PINS = {"tp": 2, "pp": 2}
Named = Iterable[tuple[str, nn.Parameter]]


def _train(par: Any, name: str, make: Callable[[Named], Any]) -> None:
    """`par` is a plain module, or what `parallelize` returned: users treat them alike."""
    batch = CASES[name].batch(torch.float64)
    optimizer, scheduler = make(par.named_parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        if isinstance(par, nn.Module):
            par(*batch).backward()
            torch.nn.utils.clip_grad_norm_(par.parameters(), 0.5)
        else:
            par.train_step(par.shard_batch(batch))
            par.clip_grad_norm_(0.5)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def _parallel(name: str, make: Callable[[Named], Any], freeze: tuple[str, ...]) -> dict[str, torch.Tensor]:
    model = build(name, torch.float64)
    _freeze(model, freeze)
    batch = CASES[name].batch(torch.float64)
    par = autopart.parallelize(model, 4, inputs=batch, global_batch=8, micro_batch=2, **PINS)
    _train(par, name, make)
    return par.full_state_dict()


def _freeze(model: nn.Module, names: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.requires_grad_(False)


def _check(pool: WorkerPool, make: Callable[[Named], Any], freeze: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Train both ways and compare all weights; the single process's."""
    model = build("gpt", torch.float64)
    _freeze(model, freeze)
    _train(model, "gpt", make)
    expected = dict(model.state_dict())
    found = pool.run(one_capture, 4, _parallel, "gpt", make, freeze)[0]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    return expected


def _cosine(named: Named) -> Any:
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)


def _one_cycle(named: Named) -> Any:
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=STEPS)


def _constant(named: Named) -> Any:
    return torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9), None


@pytest.mark.parametrize("make", [_cosine, _one_cycle])
def test_learning_rate_schedulers(worker_pool: WorkerPool, make: Callable[[Named], Any]) -> None:
    expected = _check(worker_pool, make)
    model = build("gpt", torch.float64)
    _train(model, "gpt", _constant)
    assert any(not torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def _without_decay_on_norms(named: Named) -> Any:
    """Groups by the original names, on whichever rank a weight lives."""
    decayed, others = [], []
    for name, parameter in named:
        (others if "norm" in name or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0, "lr": 0.05}]
    return torch.optim.AdamW(groups, lr=0.02, eps=1e-3), None


def test_parameter_groups_by_original_names(worker_pool: WorkerPool) -> None:
    names = [name for name, _ in build("gpt", torch.float64).named_parameters()]
    assert any("norm" in name for name in names) and not all("norm" in name for name in names)
    _check(worker_pool, _without_decay_on_norms)


def _trained_only(named: Named) -> Any:
    return torch.optim.SGD([p for _, p in named if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=0.1), None


def test_frozen_parameters_stay_as_they_are(worker_pool: WorkerPool) -> None:
    frozen = ("norm", "blocks.1.")
    expected = _check(worker_pool, _trained_only, frozen)
    before = build("gpt", torch.float64).state_dict()
    kept = [name for name in expected if torch.equal(expected[name], before[name])]
    assert kept and all(any(part in name for part in frozen) for name in kept)


# Large epsilons: where a gradient is zero but for rounding, Adam would blow rounding up.
def _adam(named: Named) -> Any:
    return torch.optim.Adam([p for _, p in named], lr=0.01, eps=1e-3, amsgrad=True), None


def _nadam(named: Named) -> Any:
    return torch.optim.NAdam([p for _, p in named], lr=0.01, eps=1e-3), None


def _rmsprop(named: Named) -> Any:
    return torch.optim.RMSprop([p for _, p in named], lr=0.01, eps=1e-3, momentum=0.5), None


def _adagrad(named: Named) -> Any:
    return torch.optim.Adagrad([p for _, p in named], lr=0.01, eps=1e-3), None


@pytest.mark.parametrize("make", [_adam, _nadam, _rmsprop, _adagrad])
def test_optimizers_of_torch(worker_pool: WorkerPool, make: Callable[[Named], Any]) -> None:
    _check(worker_pool, make)


def _accumulate(sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    batch = CASES["residual_mlp"].batch(torch.float64)
    case = CASES["residual_mlp"]
    par = autopart.parallelize(
        build("residual_mlp", torch.float64), 4, inputs=batch, loss=case.loss, global_batch=8, micro_batch=2,
        pp=2, dp=2,
    )  # fmt: skip
    start = 0
    for size in sizes:
        par.train_step(par.shard_batch((batch[0][start : start + size],)))
        start += size
    return par.full_gradients()


def test_accumulation_over_steps_of_different_sizes(worker_pool: WorkerPool) -> None:
    case, model = CASES["residual_mlp"], build("residual_mlp", torch.float64)
    (x,) = case.batch(torch.float64)
    for part in (x[:5], x[5:]):
        assert case.loss is not None
        case.loss(model(part), (part,)).backward()
    found = worker_pool.run(one_capture, 4, _accumulate, (5, 3))[0]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


class Noisy(nn.Module):
    """Dropout on what is replicated and on what tp shards, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(16, 64) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(64, 16) for _ in range(2))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 16) -> mean square."""
        for up, down in zip(self.up, self.down, strict=True):
            x = x + F.dropout(down(F.dropout(up(self.norm(x)), 0.5, self.training)), 0.2, self.training)
        return (x + 0.01 * torch.randn_like(x)).square().mean()


def _noisy(pins: dict[str, Any], world: int, steps: int, rate: float, seed: int) -> Any:
    torch.manual_seed(0)
    model, x = Noisy().double(), torch.randn(8, 16, dtype=torch.float64)
    torch.manual_seed(seed)
    par = autopart.parallelize(model, world, inputs=(x,), global_batch=8, micro_batch=2, **pins)
    optimizer = torch.optim.SGD(par.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(float(par.train_step(par.shard_batch(x))))
        optimizer.step()
    own = {name: p.detach().clone() for name, p in par.named_parameters()}
    return losses, own, par.full_state_dict()


@pytest.mark.parametrize("pins", [{"tp": 2, "pp": 2}, {"pp": 2, "dp": 2, "recompute": "full"}], ids=str)
def test_the_same_seed_and_layout_give_the_same_bits(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    first, again, other = (worker_pool.run(one_capture, 4, _noisy, pins, 4, 5, 0.05, seed) for seed in (1, 1, 2))
    assert first[0][0] == again[0][0] != other[0][0]
    for name, tensor in first[0][2].items():
        assert torch.equal(tensor, again[0][2][name]), name
    for one, two in ((0, 1), (2, 3)):  # tp ranks, or replicas, of one stage
        for name, piece in first[one][1].items():
            if piece.shape == first[0][2][name].shape:  # held whole by both
                assert torch.equal(piece, first[two][1][name]), f"ranks {one} and {two} disagree on {name}"


def test_dropout_has_the_statistics_of_a_single_process(worker_pool: WorkerPool) -> None:
    draws = 300
    single = torch.tensor(worker_pool.run(one_capture, 1, _noisy, {}, 1, draws, 0.0, 1)[0][0])
    for pins in ({"tp": 2, "dp": 2}, {"pp": 2, "dp": 2}):
        losses = torch.tensor(worker_pool.run(one_capture, 4, _noisy, pins, 4, draws, 0.0, 1)[0][0])
        # Means of independent draws: five standard errors apart once in two million.
        error = ((losses.var() + single.var()) / draws) ** 0.5
        assert abs(float(losses.mean() - single.mean())) < 5 * float(error)
        # Replicas and micro-batches draw for themselves; common numbers would make the variance twice as large.
        assert 0.6 < float(losses.var() / single.var()) < 1.6


class Pairs(nn.Module):
    """Equal layers, and a loss over pairs of samples, which makes a stage without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return (x[0::2] * x[1::2]).mean()


def _pairs() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Pairs().double(), torch.randn(8, 4, dtype=torch.float64)


def _paired(directory: str) -> tuple[list[int], dict[str, torch.Tensor]]:
    model, x = _pairs()
    par = autopart.parallelize(model, 4, inputs=x, pp=4, global_batch=8, micro_batch=2)
    optimizer = torch.optim.AdamW(par.parameters(), lr=0.1)
    with pytest.raises(autopart.BatchError, match=r"7 samples make micro-batches of 2, 2, 2, 1.*which 1 cannot be"):
        par.train_step(x[:7])
    for step in range(2):
        optimizer.zero_grad()
        par.train_step(par.shard_batch(x))
        par.clip_grad_norm_(1.0)
        optimizer.step()
        if not step:
            par.save(directory, optimizer)
            par.load(directory, optimizer)
    return [parameter.numel() for parameter in par.parameters()], par.full_state_dict()


def test_a_rank_without_weights(worker_pool: WorkerPool, tmp_path: Path) -> None:
    ranks = worker_pool.run(one_capture, 4, _paired, str(tmp_path / "saved"))
    assert [own for own, _ in ranks] == [[16, 4], [16, 4], [16, 4], [0]]
    model, x = _pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(part) / 4 for part in x.split(2)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(ranks[0][1], dict(model.state_dict()), rtol=1e-9, atol=1e-12)
