"""Layers that do the same are traced once, and those that do not are seen to differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.torch_export import capture
from tests.capture.layers_in_a_row import BATCH, Layer, Stack, assert_same, plain


def by_number(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * 2 if layer.number == 2 else x


def numbered(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * (layer.number + 1)


def alternating(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x.relu() if layer.number % 2 else x.sigmoid()


def without_gradients(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    with torch.no_grad():
        scale = x.abs().mean(-1, keepdim=True)
    return x / scale


def now_and_then_without_gradients(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    with torch.set_grad_enabled(layer.number % 2 == 0):
        size = x.abs()
    return x + size


def in_place_inside(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return (x * 2).relu_()


def data(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x * torch.tensor([1.0, 2.0] * 4)


def list_index(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x + x[:, [3]]


def literal_batch(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return x.view(-1, 8) if layer.number % 2 else x.view(x.shape[0], 8)


def sizes(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    rows, width = x.shape
    return x.reshape(rows * 2, width // 2).reshape(x.size(0), -1)


def random(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    return F.dropout(x, 0.5) + torch.rand_like(x)


class TestOneLayerAfterAnother:
    @pytest.mark.parametrize(
        ("add", "repeated"),
        [
            (plain, [1, 2, 3]),
            (by_number, [1, 3]),
            (numbered, []),
            (alternating, [2, 3]),
            (without_gradients, [1, 2, 3]),
            (now_and_then_without_gradients, [2, 3]),
            (in_place_inside, [1, 2, 3]),
            (data, []),
            (list_index, []),
            (literal_batch, [2, 3]),
            (sizes, [1, 2, 3]),
            (random, [1, 2, 3]),
        ],
    )
    def test_what_they_do(self, copies: list[str], add: Callable[..., Any], repeated: list[int]) -> None:
        assert_same(Stack(add), BATCH)
        assert copies == [f"layers.{number}" for number in repeated]

    def test_a_region_without_autocast(self) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            if layer.number == 0:
                return x @ x.transpose(0, 1) @ x
            with torch.autocast("cpu", enabled=False):
                return x @ x.transpose(0, 1) @ x

        assert_same(Stack(add), BATCH)

    def test_more_ways_than_are_compared(self, copies: list[str]) -> None:
        assert_same(Stack(numbered, count=11), BATCH)
        assert copies == []

    def test_frozen(self, copies: list[str]) -> None:
        model = Stack(plain, count=5)
        model.layers[2].requires_grad_(False)
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3", "layers.4"]

    def test_tied_weights(self, copies: list[str]) -> None:
        model = Stack(plain, count=5)
        model.layers[3].up.weight = model.layers[1].up.weight
        graph = assert_same(model, BATCH).graph
        (tied,) = [parameter for parameter in graph.parameters if parameter.aliases]
        assert len(graph.consumers[tied.value.name]) == 2
        assert len(copies) == 4

    def test_one_weight_at_two_places(self, copies: list[str]) -> None:
        """All layers look alike, but one uses a weight twice."""
        model = Stack(plain)
        for layer in model.layers:
            layer.up, layer.down = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        model.layers[2].down.weight = model.layers[2].up.weight
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3"]

    def test_a_layer_called_twice(self, copies: list[str]) -> None:
        model = Stack(plain)
        model.layers.append(model.layers[1])
        assert_same(model, BATCH)
        assert copies

    def test_a_hook(self, copies: list[str]) -> None:
        model = Stack(plain)
        model.layers[2].register_forward_hook(lambda module, args, output: output * 3)
        assert_same(model, BATCH)
        assert copies == ["layers.1", "layers.3"]

    def test_on_cpu_and_on_meta(self) -> None:
        real = Stack(plain)
        assert assert_same(real, BATCH).graph == assert_same(Stack(plain).to("meta"), BATCH).graph


def test_towers_that_look_alike(copies: list[str]) -> None:
    """Two towers of many layers: the layers are the better unit."""

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Stack(plain, count=8), Stack(plain, count=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(x) + self.right(x)

    assert_same(Towers(), BATCH)
    assert len(copies) == 15


def test_an_error_is_that_of_the_whole_trace() -> None:
    def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
        if x.sum() > 0:
            x = -x
        return x

    texts = []
    for every_layer in (False, True):
        with pytest.raises(Exception, match="Stack cannot be captured") as caught:
            capture(Stack(add), (BATCH,), every_layer=every_layer)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
