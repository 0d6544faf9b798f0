"""`evaluate` and `predict`, beside the model in evaluation mode in a single process."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import autopart
from autopart.capture.torch_export import without_cache
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.schedules.forward_passes import forward_passes
from autopart.schedules.homes import homes
from autopart.schedules.validate import validate
from tests.equality.single import own_loss
from tests.models import build
from tests.models import case as case_of
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool


@dataclass(frozen=True)
class Scores:
    """What `Moody` returns: torch knows nothing of this class."""

    loss: torch.Tensor
    scores: torch.Tensor
    parts: dict[str, Any]


class Moody(nn.Module):
    """Does something else in evaluation mode: no dropout, running statistics, one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 16)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 16)) for _ in range(3)
        )
        self.leave = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> Scores:
        """x: (batch, 8), target: (batch, 4)."""
        x = self.enter(x)
        for layer in self.layers:
            x = x + layer(x)
            if self.training:
                x = F.dropout(x, 0.1)
        scores = self.leave(x)
        if not self.training:
            scores = scores.tanh()
        return Scores(F.mse_loss(scores, target), scores, {"hidden": x, "twice": (2 * scores, "a name"), "none": None})


def _batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, target = (torch.randn(8, width, generator=generator, dtype=torch.float64) for width in (8, 4))
    return {"x": x, "target": target}


def _moody() -> Moody:
    torch.manual_seed(0)
    return Moody().double()


def _evaluate(world: int, pins: dict[str, Any]) -> Any:
    batch, model = _batch(), _moody()
    par = autopart.parallelize(model, world, inputs=batch, global_batch=8, micro_batch=2, **pins)
    optimizer = torch.optim.SGD(par.parameters(), lr=0.01)
    for _ in range(2):
        par.train_step(par.shard_batch(batch))
        optimizer.step()
        optimizer.zero_grad()
    state = par.full_state_dict()
    share = par.shard_batch({name: item[:7] for name, item in batch.items()})
    with torch.inference_mode():
        loss = par.evaluate(share)
    assert all(parameter.grad is None for parameter in par.parameters())
    again = par.evaluate(share)
    output, last = par.predict(share), par.predict(share, everywhere=False)
    par.train_step(par.shard_batch(batch))
    changed = par.evaluate(share)
    assert model.training and all(module.training for module in model.modules())
    return state, float(loss), float(again), float(changed), output, last is None, len(share["x"])


@pytest.mark.parametrize(
    "pins",
    [{"tp": 2, "pp": 2}, {"pp": 2, "dp": 2}, {"pp": 2, "dp": 2, "schedule": "zb-v", "virtual_stages": 2}, {"tp": 4}],
    ids=str,
)
def test_evaluation_mode_with_the_weights_in_training(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    ranks = worker_pool.run(one_capture, 4, _evaluate, 4, pins)
    model = _moody()
    model.load_state_dict(ranks[0][0])
    model.eval()
    with torch.no_grad():
        expected = model(**{name: item[:7] for name, item in _batch().items()})
    taken = {}
    for _, loss, again, changed, output, _, size in ranks:
        assert loss == pytest.approx(float(expected.loss), rel=1e-11) and loss == again
        assert changed != loss  # the running statistics of a further step
        assert isinstance(output, Scores) and list(output.parts) == ["hidden", "twice", "none"]
        assert float(output.loss) == pytest.approx(float(expected.loss), rel=1e-11)
        assert output.parts["none"] is None and output.parts["twice"][1] == "a name"
        taken.setdefault(size, output)
    shares = [taken[size] for size in sorted(taken)]
    for read in (lambda o: o.scores, lambda o: o.parts["hidden"], lambda o: o.parts["twice"][0]):
        torch.testing.assert_close(torch.cat([read(share) for share in shares]), read(expected), rtol=1e-11, atol=1e-12)
    last_stage = 4 // pins.get("pp", 1) if "schedule" not in pins else 2  # with zb-v the first rank has it too
    assert sum(none for *_, none, _ in ranks) == 4 - last_stage


def _predicted(name: str, world: int, pins: dict[str, Any]) -> tuple[float, Any]:
    case, batch = case_of(name), case_of(name).batch(torch.float64)
    par = autopart.parallelize(
        build(name, torch.float64), world, inputs=batch, loss=case.loss, global_batch=8, micro_batch=2, **pins
    )
    return float(par.evaluate(par.shard_batch(batch))), par.predict(par.shard_batch(batch))


# Of t5 an output is made in the middle and used later on; u_net returns one of its inputs.
@pytest.mark.parametrize("name", ["llama", "gpt", "residual_mlp", "bert", "t5", "u_net"])
def test_outputs_come_back_as_the_model_returns_them(worker_pool: WorkerPool, name: str) -> None:
    case, model, batch = case_of(name), build(name, torch.float64).eval(), case_of(name).batch(torch.float64)
    with torch.no_grad(), without_cache(model):
        expected = model(**batch) if isinstance(batch, dict) else model(*batch)
        loss = case.loss(expected, batch) if case.loss else own_loss(expected)
    allowed = 1e-5 if case.drops else 1e-11
    for found, output in worker_pool.run(one_capture, 4, _predicted, name, 4, {"tp": 2, "pp": 2}):
        assert found == pytest.approx(float(loss), rel=allowed)
        assert type(output) is type(expected)
        if isinstance(expected, dict):
            assert list(output) == list(expected)
        for own, other in zip(tree_leaves(output), tree_leaves(expected), strict=True):
            assert not own.requires_grad
            torch.testing.assert_close(own, other, rtol=allowed, atol=allowed)


class Summed(nn.Module):
    """Returns sums and means over samples, what it was given, and, if asked, a maximum, which is no sum."""

    def __init__(self, largest: bool) -> None:
        super().__init__()
        self.layer, self.largest = nn.Linear(4, 4), largest

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """x: (batch, 4), weights: (3,)."""
        y = self.layer(x)
        loss = y.square().mean()
        found = {"loss": loss + 0.5, "part": loss, "sum": y.sum(0), "above": (y > 0).sum(), "weights": weights}
        return {**found, "largest": y.amax(0)} if self.largest else found


def _summed() -> tuple[str, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    batch = {"x": torch.randn(8, 4), "weights": torch.arange(3.0)}
    par = autopart.parallelize(Summed(largest=True), 2, inputs=batch, global_batch=8, micro_batch=2, dp=2)
    message = ""
    try:
        par.predict(par.shard_batch(batch))
    except autopart.BatchError as error:
        message = str(error)
    model = Summed(largest=False)
    par = autopart.parallelize(model, 2, inputs=batch, global_batch=8, micro_batch=2, dp=2)
    found = par.predict(par.shard_batch(batch))
    for name, parameter in par.named_parameters():  # the first replica's
        model.get_parameter(name).data.copy_(parameter)
    with torch.no_grad():
        return message, found, model(**batch)


def test_outputs_without_samples(worker_pool: WorkerPool) -> None:
    for message, found, expected in worker_pool.run(one_capture, 2, _summed):
        assert "by aten.amax.default" in message and "another in each micro-batch: pass no more than micro" in message
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize("micro_batches", [1, 3, 4, 7])
@pytest.mark.parametrize(("schedule", "virtual_stages"), [("1f1b", 1), ("interleaved-1f1b", 3), ("zb-v", 2)])
def test_forward_passes_keep_the_homes_of_training(schedule: str, virtual_stages: int, micro_batches: int) -> None:
    training = find_schedule(schedule)(4, 8, virtual_stages)
    passes = forward_passes(homes(training), micro_batches)
    validate(passes, 4 * virtual_stages, micro_batches, kinds=(Kind.FORWARD,))
    assert homes(passes) == homes(training)
    if schedule != "zb-v":
        assert passes == find_schedule("forward-only")(4, micro_batches, virtual_stages)


class Thrice(nn.Module):
    """One weight at the beginning, in the middle and at the end: it does not tell where stages begin."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 16)
        self.before = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.after = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Both: (batch, length)."""
        x = self.embedding(ids)
        for layer in self.before:
            x = x + torch.tanh(layer(x))
        x = x + (x @ self.embedding.weight.t()).softmax(-1) @ self.embedding.weight
        for layer in self.after:
            x = x + torch.tanh(layer(x))
        return F.cross_entropy((x @ self.embedding.weight.t()).flatten(0, 1), labels.flatten())


def _thrice() -> tuple[Thrice, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return Thrice().double(), {"ids": torch.randint(8, (8, 4)), "labels": torch.randint(8, (8, 4))}


def _evaluated_thrice() -> float:
    model, batch = _thrice()
    pins = {"pp": 2, "schedule": "zb-v", "virtual_stages": 2, "micro_batch": 2}
    return float(autopart.parallelize(model, 2, inputs=batch, global_batch=8, **pins).evaluate(batch))


def test_a_weight_on_several_stages(worker_pool: WorkerPool) -> None:
    model, batch = _thrice()
    for found in worker_pool.run(one_capture, 2, _evaluated_thrice):
        assert found == pytest.approx(float(model(**batch).detach()), rel=1e-11)


class Judge(nn.Module):
    """Branches on values, so that it cannot be captured; in evaluation mode it does not hesitate."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> the same shape."""
        y: torch.Tensor = self.layer(x)
        rows = [row.relu() if bool(row.sum() > 0) else row for row in y]
        return torch.stack(rows) * (0.5 if self.training else 1.0)


class Court(nn.Module):
    """A judge between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.judge, self.last = nn.Linear(8, 8), Judge(), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> mean square."""
        return self.last(self.judge(self.first(x))).square().mean()


def _court() -> tuple[Court, torch.Tensor]:
    torch.manual_seed(0)
    return Court().double(), torch.randn(8, 8, dtype=torch.float64)


def _judged() -> tuple[float, float]:
    model, x = _court()
    par = autopart.parallelize(
        model, 2, inputs=(x,), global_batch=8, micro_batch=2, pp=2, keep_whole=["judge"], cuts=["judge"]
    )
    return float(par.evaluate(x)), float(par.train_step(x))


def test_what_is_kept_whole_is_in_evaluation_mode_too(worker_pool: WorkerPool) -> None:
    model, x = _court()
    expected = [float(model.train(mode)(x).detach()) for mode in (False, True)]
    for found in worker_pool.run(one_capture, 2, _judged):
        assert list(found) == pytest.approx(expected, rel=1e-12)
