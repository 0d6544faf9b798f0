"""Tensors that a model fills in place are captured as what is put side by side."""

import pytest
import torch
from torch import nn

from autopart.capture.evaluate import evaluate
from autopart.capture.torch_export import capture
from autopart.ir.graph import Graph


class Filling(nn.Module):
    """Fills a new tensor with a projection and a copy of the input."""

    def __init__(self, stops: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.stops = stops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filled = x.new_empty(x.shape[0], 3, 8)
        start = 0
        for stop in self.stops:
            filled[..., start:stop] = self.linear(x)[..., : stop - start].unsqueeze(1)
            start = stop
        return (filled[..., : self.stops[-1]] ** 2).mean()


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_a_tensor_filled_by_slices_is_a_concatenation() -> None:
    found = ops(capture(Filling((4, 8)), (torch.zeros(2, 4),)).graph)
    assert found.count("aten.cat.default") == 1
    assert not {"aten.copy.default", "aten.slice_scatter.default", "aten.new_empty.default"} & set(found)


def test_copies_become_expansions_even_where_something_stays_empty() -> None:
    found = ops(capture(Filling((4, 7)), (torch.zeros(2, 4),)).graph)
    assert "aten.copy.default" not in found
    assert found.count("aten.slice_scatter.default") == 2


class Overwriting(nn.Module):
    """Writes half of a zeroed tensor, in another dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros(x.shape[0], 8, dtype=torch.float64)
        filled[:, 2:6] = x
        return filled.sum()


@pytest.mark.parametrize("module", [Filling((4, 8)), Filling((4, 7)), Overwriting()])
def test_the_graph_computes_the_same(module: nn.Module) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    captured = capture(module, (x,))
    graph = captured.graph
    given = {graph.inputs[0].value.name: x, **{c.value.name: captured.constants[c.target] for c in graph.constants}}
    weights = dict(module.named_parameters())
    given |= {parameter.value.name: weights[parameter.target].detach() for parameter in graph.parameters}
    torch.testing.assert_close(evaluate(graph, graph.outputs[0], given, 3), module(x).detach(), check_dtype=False)
