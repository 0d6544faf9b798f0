"""Layers in a row, for tests of tracing one of each kind, and that this gives the graph of tracing them all."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autopart.capture.captured import Captured
from autopart.capture.example_inputs import example_inputs
from autopart.capture.torch_export import capture

BATCH = torch.empty(4, 8)


def assert_same(model: nn.Module, inputs: object | None = None, loss: Any = None) -> Captured:
    """That both ways give one graph; the short one."""
    batch = example_inputs(model, inputs)
    short, full = capture(model, batch, loss), capture(model, batch, loss, every_layer=True)
    assert str(short.graph) == str(full.graph)
    assert short.graph == full.graph  # scopes and locations too
    assert short.graph.fingerprint == full.graph.fingerprint
    assert list(short.constants) == list(full.constants)
    return short


class Layer(nn.Module):
    """A layer with something to `add`, called with what goes around and the layer itself."""

    def __init__(self, number: int, add: Callable[[torch.Tensor, "Layer"], Any]) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.number = number
        self.add = add

    def forward(self, x: torch.Tensor, **extra: torch.Tensor | None) -> Any:
        return self.add(x + self.down(torch.tanh(self.up(x))), self, **extra)


class Stack(nn.Module):
    """Layers in a row, after one of another kind."""

    def __init__(self, add: Callable[..., Any], count: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.layers = nn.ModuleList(Layer(number, add) for number in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return x.square().sum()


def plain(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x
