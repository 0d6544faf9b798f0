"""Folding follows the wiring: skips that leave a loop, values carried around it, layers that share weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.fold import fold
from autopart.ir.folded import Folded, folded
from autopart.ir.graph import Graph
from autopart.ir.units import layer_parts
from tests.capture.models import graph_of

BATCH = torch.empty(4, 8)


def mean(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return output.mean()


def regions(graph: Graph) -> list[tuple[int, int]]:
    """(nodes a run, runs) of every region."""
    return [(region.length, region.count) for region in graph.regions]


def assert_consistent(whole: Folded) -> None:
    """Every run of a loop is its body, renamed: the same ops on the renamed values, and runs linked as carried."""
    for loop in whole.loops:
        region = loop.region
        assert loop.stop - loop.start == region.length + len(loop.enters) + len(loop.leaves)
        previous: dict[str, str] = {}
        for run in range(region.count):
            table = whole.renaming(loop, run)
            for name, (initial, (offset, output)) in zip(loop.enters, region.carried, strict=True):
                inside = whole.graph.nodes[whole.graph.producer[name.removeprefix("enter_")]].output.name
                result = whole.graph.nodes[loop.body.start + offset].outputs[output].name
                table[inside] = initial if run == 0 else previous[result]
            for position, index in enumerate(loop.body):
                node = whole.graph.nodes[index]
                twin = whole.source.nodes[region.start + run * region.length + position]
                assert twin.op == node.op
                assert twin.inputs == tuple(table.get(name, name) for name in node.inputs)
                assert tuple(v.name for v in twin.outputs) == tuple(table[v.name] for v in node.outputs)
                assert [v.shape for v in twin.outputs] == [v.shape for v in node.outputs]
            previous = table


class Block(nn.Module):
    def __init__(self, width: int = 8, inner: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Gate(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.gate(x))


class TestWiring:
    def test_a_skip_into_every_layer(self) -> None:
        """A value from before the loop that every run takes is fixed, not carried."""

        class Skips(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter = nn.Linear(8, 8)
                self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                first = x = self.enter(x)
                for layer in self.layers:
                    x = torch.relu(layer(x)) + first
                return x.sum()

        whole = folded(fold(graph_of(Skips(), BATCH)))
        assert_consistent(whole)
        for loop in whole.loops:
            assert len(loop.region.carried) == 1

    def test_a_u_net(self) -> None:
        """What each run hands to a later part of the model cannot be folded away."""

        class UNet(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.down = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
                self.up = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                kept = []
                for layer in self.down:
                    x = torch.relu(layer(x))
                    kept.append(x)
                for layer in self.up:
                    x = torch.relu(layer(x)) + kept.pop()
                return x.sum()

        whole = folded(fold(graph_of(UNet(), BATCH)))
        assert whole.source.regions == ()

    def test_two_carried_values(self) -> None:
        class Reversible(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter = nn.Linear(8, 8)
                self.f = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                a, b = x.relu(), x.sigmoid()
                for f in self.f:
                    a, b = b, a + torch.tanh(f(b))
                return (a * b).sum()

        whole = folded(fold(graph_of(Reversible(), BATCH)))
        assert_consistent(whole)
        # A run takes the results of the two before it, which is a run of two layers and both their results.
        assert regions(whole.source) == [(6, 2)]
        assert len(whole.loops[0].enters) == 2

    def test_outputs_of_every_layer(self) -> None:
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                found = []
                for layer in self.layers:
                    x = torch.relu(layer(x))
                    found.append(x)
                return tuple(found)

        assert fold(graph_of(Heads(), BATCH)).regions == ()


class TestSharedLayers:
    """The same module applied again and again, as in ALBERT."""

    class Shared(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.enter = nn.Linear(8, 8)
            self.block = Block()
            self.scales = nn.ModuleList(Gate() for _ in range(4)) if own else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x).sigmoid()
            for number in range(4):
                x = self.block(x)
                if self.scales is not None:
                    x = self.scales[number](x)
            return F.mse_loss(x, torch.ones_like(x))

    @pytest.mark.parametrize("own", [False, True], ids=["shared alone", "shared and own"])
    def test_it_is_consistent(self, own: bool) -> None:
        whole = folded(fold(graph_of(self.Shared(own), BATCH)))
        assert_consistent(whole)
        shared = [parameter for parameter in whole.graph.parameters if parameter.target.startswith("block.")]
        assert len(shared) == 4
        assert all(whole.copies[parameter.value.name] == 1 for parameter in shared)
        everything = sum(whole.copies[parameter.value.name] for parameter in whole.graph.parameters)
        assert everything == len(whole.source.parameters)

    def test_own_weights_beside_shared_ones_fold(self) -> None:
        whole = folded(fold(graph_of(self.Shared(True), BATCH)))
        assert [count for _, count in regions(whole.source)] == [4]
        assert layer_parts(whole, whole.loops[0]) == tuple((f"scales.{number}",) for number in range(4))


class TestLayersThatRunAgain:
    """A stack that is run twice, as recurrent models do: one module, so one set of weights and gradients."""

    class Twice(nn.Module):
        def __init__(self, between: bool) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(4))
            self.between = nn.Linear(8, 8) if between else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            x = self.between(x)
            for layer in self.layers:
                x = layer(x)
            return x

    @pytest.mark.parametrize("between", [True, False])
    def test_they_do_not_fold(self, between: bool) -> None:
        graph = fold(graph_of(self.Twice(between), (BATCH,), mean))
        assert regions(graph) == []
        assert len(graph.parameters) == 4 * len(list(Block().parameters())) + 2 * between
