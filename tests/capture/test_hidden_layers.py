"""Weights of hidden layers that are used elsewhere are seen, and which layers are hidden."""

from typing import Any

import pytest
import torch
from torch import nn

from autopart.capture.hidden_layers import hidden_layers
from tests.capture.layers_in_a_row import BATCH, Layer, Stack, assert_same, plain


def test_all_but_the_first_are_hidden() -> None:
    found = hidden_layers(Stack(plain))
    assert found.paths == {"layers.1", "layers.2", "layers.3"}
    assert sorted(found.names.values())[:4] == [
        "layers.1.down.bias", "layers.1.down.weight", "layers.1.up.bias", "layers.1.up.weight",
    ]  # fmt: skip
    assert hidden_layers(Stack(plain), {"layers.2"}).paths == {"layers.1", "layers.3"}


def test_what_is_shared_is_seen() -> None:
    model = Stack(plain)
    model.layers[3].up.weight = model.layers[1].up.weight
    assert hidden_layers(model).paths == {"layers.2"}
    model.layers[2].down = model.enter  # a module in two places
    assert hidden_layers(model).paths == set()


class Reading(Stack):
    """Reads weights of its layers besides."""

    def __init__(self, read: Any) -> None:
        super().__init__(plain)
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8)."""
        return super().forward(x) + self.read(self)


def caught(model: Stack) -> Any:
    """Uses a weight, and goes on if that is an error."""
    try:
        return model.layers[2].up.weight.sum()
    except Exception:
        return 0.0


@pytest.mark.parametrize(
    "read",
    [
        lambda model: model.layers[2].up.weight.sum(),
        lambda model: torch.stack([layer.down.bias for layer in model.layers]).sum(),
        lambda model: sum(parameter.square().sum() for parameter in model.parameters()),
        lambda model: model.layers[3](model.layers[1].up.weight).sum(),
        caught,
    ],
)
def test_a_weight_that_the_model_reads(copies: list[str], read: Any) -> None:
    assert_same(Reading(read), BATCH)
    assert len(copies) >= 3  # of the layers in a row


def test_a_weight_of_another_layer() -> None:
    model = Stack(plain)

    def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
        before = model.layers[max(0, layer.number - 1)]
        return x @ before.up.weight.T @ before.down.weight.T

    for layer in model.layers:
        layer.add = add
    assert_same(model, BATCH)


def test_a_weight_that_is_returned() -> None:
    class Returning(Stack):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
            return super().forward(x), self.layers[2].up.weight

    assert len(assert_same(Returning(plain), BATCH).graph.outputs) == 2


def test_buffers_of_layers(copies: list[str]) -> None:
    """Of hidden layers too they are constants of the graph, those that are in no state dict as well."""

    def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
        return x * layer.scale + layer.shift  # type: ignore[operator]

    model = Stack(add)
    for layer in model.layers:
        layer.register_buffer("scale", torch.randn(8))
        layer.register_buffer("shift", torch.randn(8), persistent=False)
    captured = assert_same(model, BATCH)
    assert len(copies) == 3
    assert torch.equal(captured.constants["layers.2.shift"], model.layers[2].shift)


def test_statistics_that_every_layer_changes() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(3)))
    graph = assert_same(model, BATCH, lambda out, batch: out.sum()).graph
    assert len(graph.updates) == 9
