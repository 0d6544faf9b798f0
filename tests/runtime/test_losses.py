"""Losses as they are written in practice are, over micro-batches, stages and replicas, those of one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import autopart
from autopart.ir.plan import PlanData
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

SAMPLES, LENGTH, CLASSES, WIDTH = 7, 5, 6, 8
Tensors = dict[str, torch.Tensor]


class Tagger(nn.Module):
    """A class for each of several places, of which a mask leaves some out; `loss` is given what there is."""

    def __init__(self, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.beside = nn.Linear(WIDTH, CLASSES)
        self.balance = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> Tensors:
        """All: (batch, length)."""
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + checkpoint(lambda x, own: torch.tanh(own(x)), hidden, layer, use_reentrant=True)
        scores = self.head(hidden)
        loss = self.loss(self, hidden, scores, labels, mask)
        return {"loss": loss, "right": (scores.argmax(-1) == labels).sum(), "masked": mask.sum()}


def each(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of every place."""
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def masked_mean(model: Tagger, hidden: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, mask: Any) -> Any:
    return (each(scores, labels) * mask).sum() / mask.sum().clamp(min=1)


def by_normed_weights(
    model: Tagger, hidden: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, mask: Any
) -> Any:
    weights = mask.to(scores.dtype) + 0.1
    places = weights.mean(0)
    return (each(scores, labels) * (weights / weights.sum()) / places).sum()


def of_several_kinds(model: Tagger, hidden: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, mask: Any) -> Any:
    """Means over different counts, weighed by weights that are trained; a penalty, a similarity, a part detached."""
    ignoring = torch.where(mask, labels, -100)
    first = F.cross_entropy(scores.transpose(1, 2), ignoring) * torch.exp(-model.balance[0]) + model.balance[0]
    second = hidden.square().mean() / torch.exp(model.balance[1]) + model.balance[1]
    penalty = sum(parameter.square().sum() for parameter in model.head.parameters())
    alike = 1 - F.cosine_similarity(scores, model.beside(hidden).detach(), dim=-1).mean()
    return first + second + 0.01 * penalty + 0.5 * alike


def by_the_number_of_samples(
    model: Tagger, hidden: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, mask: Any
) -> Any:
    count = labels.shape[0]
    return each(scores / count**0.5, labels).sum() / count + (hidden * (1 / count)).sum() / (count + 1)


def by_the_numbers_of_samples(
    model: Tagger, hidden: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, mask: Any
) -> Any:
    """Weights by the places of samples in the batch, and of their rows, and a lookup of one place of each sample."""
    numbers = torch.arange(labels.shape[0])
    rows = torch.arange(1, 2 * labels.numel(), 2).view(labels.shape)
    weights = torch.where(numbers < 5, numbers + 1.0, 0.5).to(scores.dtype).unsqueeze(1)
    chosen = hidden[torch.arange(labels.shape[0]), labels.clamp(max=LENGTH - 1)[:, 0]].square().mean()
    return (each(scores, labels) * weights * rows).sum() / weights.sum() + chosen


LOSSES = (masked_mean, by_normed_weights, of_several_kinds, by_the_number_of_samples, by_the_numbers_of_samples)


def _tagger(loss: Callable[..., torch.Tensor]) -> Tagger:
    torch.manual_seed(0)
    return Tagger(loss).double()


def _batch() -> Tensors:
    draw = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(CLASSES, (SAMPLES, LENGTH), generator=draw) for _ in range(2))
    mask = torch.rand(SAMPLES, LENGTH, generator=draw) > torch.linspace(0.1, 0.9, SAMPLES)[:, None]
    return {"ids": ids, "labels": labels, "mask": mask}


def _stepped(named: Any) -> torch.optim.Optimizer:
    """Its decay shows in weights that have a gradient of zeros instead of none."""
    optimizer = torch.optim.SGD([parameter for _, parameter in named], lr=0.1, weight_decay=0.5)
    optimizer.step()
    return optimizer


def _taggers() -> list[tuple[float, Tensors, float | None, Any, Tensors, list[str]]]:
    found: list[tuple[float, Tensors, float | None, Any, Tensors, list[str]]] = []
    for loss in LOSSES:
        batch = _batch()
        par = autopart.parallelize(
            _tagger(loss), 4, inputs=batch, pp=2, dp=2, global_batch=8, micro_batch=2, schedule="1f1b", zero=1
        )
        value = float(par.train_step(par.shard_batch(batch)))
        gradients = par.full_gradients()
        _stepped(par.named_parameters())
        if loss is not masked_mean:  # a capture each takes its time
            found.append((value, gradients, None, None, par.full_state_dict(), _mixing(par.plan)))
            continue
        evaluated, predicted = float(par.evaluate(par.shard_batch(batch))), par.predict(par.shard_batch(batch))
        found.append((value, gradients, evaluated, predicted, par.full_state_dict(), _mixing(par.plan)))
    return found


def _mixing(plan: PlanData) -> list[str]:
    return [note.text for note in plan.notes if "mixes" in note.text or "counts" in note.text]


def test_loss_gradients_and_decay(worker_pool: WorkerPool) -> None:
    for loss, (value, gradients, evaluated, predicted, state, notes) in zip(
        LOSSES, worker_pool.run(one_capture, 4, _taggers)[0], strict=True
    ):
        model, batch = _tagger(loss), _batch()
        expected = model(**batch)["loss"]
        expected.backward()
        assert not notes, loss
        assert value == pytest.approx(float(expected.detach()), rel=1e-11), loss
        own = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert gradients.keys() == own.keys()
        torch.testing.assert_close(gradients, own, rtol=1e-9, atol=1e-12)
        _stepped(model.named_parameters())
        torch.testing.assert_close(state, dict(model.state_dict()), rtol=1e-9, atol=1e-12)
        if evaluated is None:
            continue
        with torch.no_grad():
            after = model.eval()(**batch)
        assert evaluated == pytest.approx(float(after["loss"]), rel=1e-11)
        torch.testing.assert_close(predicted, after, rtol=1e-11, atol=0)


class Normed(nn.Module):
    """A batch norm as some write it: what is subtracted is of the micro-batch, and no part of the global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, width)."""
        hidden = self.layer(x)
        hidden = hidden - hidden.sum(0) / x.shape[0]
        return (hidden / (hidden.square().mean(0) + 0.1).sqrt() - 1).square().mean() + hidden.mean().exp()


class Complex(nn.Module):
    """A complex weight, whose gradient takes the conjugate of what it is multiplied by, on a stage with another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
        self.turn = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.complex128))
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.complex128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, width)."""
        turned = torch.tanh(self.layer(x)).to(torch.complex128) @ self.turn
        return ((turned * turned) @ self.weight).abs().mean()


def _x() -> torch.Tensor:
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double() if kind is Normed else kind()


def _trained(kind: type[nn.Module], pins: dict[str, Any]) -> tuple[float, Tensors, float]:
    par = autopart.parallelize(_built(kind), 2, inputs=_x(), global_batch=4, **pins)
    loss = float(par.train_step(par.shard_batch(_x())))
    return loss, par.full_gradients(), float(par.clip_grad_norm_(0.1))


def test_mixed_samples_are_those_of_the_micro_batch(worker_pool: WorkerPool) -> None:
    loss, gradients, _ = worker_pool.run(one_capture, 2, _trained, Normed, {"dp": 2, "micro_batch": 2})[0]
    model = _built(Normed)
    expected = (model(_x()[:2]) + model(_x()[2:])) / 2
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-11)
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(gradients, own, rtol=1e-9, atol=1e-12)


def test_complex_weights_under_a_split_backward_pass(worker_pool: WorkerPool) -> None:
    pins = {"pp": 2, "micro_batch": 1, "schedule": "zb-h1"}
    loss, gradients, norm = worker_pool.run(one_capture, 2, _trained, Complex, pins)[0]
    model = _built(Complex)
    expected = model(_x())
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-11)
    own = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)), rel=1e-11)
    torch.testing.assert_close(gradients, own, rtol=1e-9, atol=1e-12)
