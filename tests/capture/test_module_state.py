"""What forward assigns to attributes of modules: buffers are changed, numbers must be the same every time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autopart import CaptureError, api
from autopart.ir.graph import Graph, show


class Averaging(nn.Module):
    """Keeps a running average in a buffer that it assigns, or changes in place."""

    def __init__(self, assigns: bool) -> None:
        super().__init__()
        self.layer, self.assigns = nn.Linear(4, 4), assigns
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        x = self.layer(x)
        if self.assigns:
            self.mean = self.mean * 0.9 + x.detach().mean(0)
        else:
            self.mean.copy_(self.mean * 0.9 + x.detach().mean(0))
        return (x - self.mean).square().sum()


class Counting(nn.Module):
    """Counts its calls in a plain number, which it computes with or not."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.layer, self.reads, self.calls = nn.Linear(4, 4), reads, 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        self.calls += 1
        return self.layer(x).sum() * (self.calls if self.reads else 2)


class Growing(nn.Module):
    """Appends to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        self.seen = torch.cat([self.seen, torch.ones(1, 4)])
        return self.layer(x).sum()


def _graph(model: nn.Module) -> Graph:
    return api.prepare(model, torch.randn(4, 4)).captured.graph


def test_a_buffer_that_is_assigned_is_one_that_is_changed() -> None:
    model = Averaging(assigns=True)
    before, graph = model.mean, _graph(model)
    other = _graph(Averaging(assigns=False))
    assert len(graph.updates) == 1 and list(map(show, graph.nodes)) == list(map(show, other.nodes))
    assert model.mean is before and not before.any()


def test_a_buffer_of_another_shape() -> None:
    with pytest.raises(CaptureError, match=r"assigns a torch.float32 of shape \(2, 4\) to the buffer 'seen'"):
        _graph(Growing())


def test_a_number_that_changes_from_call_to_call() -> None:
    model = Counting(reads=True)
    with pytest.raises(CaptureError, match=r"forward changes calls of Counting from 3 to 4.*in a buffer"):
        _graph(model)
    assert model.calls == 3
    assert _graph(Counting(reads=False)).loss


class Keeping(nn.Module):
    """Keeps tensors in ordinary attributes; `keep` does it, and gives what is computed with."""

    def __init__(self, keep: Callable[["Keeping", torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.keep = nn.Linear(4, 4), keep
        self.table, self.last, self.ready = torch.arange(4.0), None, False
        self.queue: list[torch.Tensor] = [torch.ones(4)]
        self.inner = nn.Module()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        x = self.layer(x)
        return (x * self.keep(self, x)).sum()


def assigned(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    model.table = model.table * 0.9 + 1
    return model.table


def in_place(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    return model.table.mul_(0.9)


def activation(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    before = model.table if model.last is None else model.last
    model.last = x.detach().mean(0)
    return before


def in_a_list(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    model.queue.append(model.queue[-1] * 0.5)
    return model.queue[-1]


def cache_of_a_weight(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    if model.last is None:
        model.last = model.layer.weight.detach().sum(0)
    return model.last


def by_product(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    model.last, model.inner.seen = x.detach(), [x]
    model.queue.append(x.detach())
    return model.table


def cache(model: Keeping, x: torch.Tensor) -> torch.Tensor:
    if not model.ready:
        model.last, model.ready = model.table.exp().cumsum(0), True
    assert model.last is not None
    return model.last


@pytest.mark.parametrize(
    ("keep", "place"),
    [
        (assigned, "table"),
        (in_place, "table"),
        (activation, "last"),
        (in_a_list, "queue"),
        (cache_of_a_weight, "last"),
    ],
)
def test_a_kept_tensor_that_changes_must_be_a_buffer(keep: Any, place: str) -> None:
    model = Keeping(keep)
    with pytest.raises(CaptureError, match=rf"{place}.*self\.register_buffer\('{place}'"):
        _graph(model)
    assert model.last is None and len(model.queue) == 1


def test_the_other_front_end_sees_it_too() -> None:
    for model, message in (
        (Keeping(activation), "puts another tensor into last"),
        (Counting(reads=True), "changes calls of Counting from 3 to 4"),
    ):
        with pytest.raises(CaptureError, match=message):
            api.prepare(model, torch.randn(4, 4), front_end="fx_trace")


@pytest.mark.parametrize("keep", [by_product, cache])
def test_what_is_kept_and_not_read_or_always_the_same_harms_nothing(keep: Any) -> None:
    model = Keeping(keep)
    assert _graph(model).loss
    assert model.last is None and not model.ready and len(model.queue) == 1 and not vars(model.inner).get("seen")


def test_a_kept_tensor_that_would_be_trained() -> None:
    model = Keeping(lambda model, x: model.queue[0])
    model.queue = [torch.ones(4, requires_grad=True)]
    with pytest.raises(CaptureError, match=r"requires_grad=True, and is no parameter.*nn\.ParameterList"):
        _graph(model)
