"""What forward assigns to attributes of modules: buffers are changed, numbers must be the same every time."""

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
