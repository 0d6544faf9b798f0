"""Tables that a model makes in any order, as code that walks a set does, give one graph."""

import itertools

import torch
from torch import nn

from autopart import api
from autopart.ir.graph import Graph


class Tables(nn.Module):
    """Makes tables of several kinds in the given order, and layers that each use one, or make one for themselves."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        self.order = order
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        for number, kind in enumerate(sorted(order)):
            self.register_buffer(kind, torch.full((8,), number + 1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8)."""
        places = torch.arange(8)
        tables = {kind: (places * getattr(self, kind)).cos() for kind in self.order}
        masks = {kind: (places > len(kind)).to(x.dtype) + tables[kind] for kind in self.order}
        for layer, kind in zip(self.layers, sorted(self.order) * 2, strict=True):
            x = layer(x) * tables[kind] + masks[kind] * (torch.arange(8) < 4)
        return x.square().mean()


def _graph(order: tuple[str, ...]) -> Graph:
    return api.prepare(Tables(order), torch.randn(4, 8)).captured.graph


def test_tables_made_in_any_order_give_one_graph() -> None:
    graphs = [_graph(order) for order in itertools.permutations(("near", "far", "whole"))]
    assert len({graph.fingerprint for graph in graphs}) == 1 and len({str(graph) for graph in graphs}) == 1
    made: set[str] = set()
    for node in graphs[0].nodes:  # and each after what it takes
        assert made.issuperset(name for name in node.inputs if name in graphs[0].producer)
        made.update(value.name for value in node.outputs)
