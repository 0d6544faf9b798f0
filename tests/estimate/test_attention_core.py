"""Attention cores are found by their products, whatever the modules are called."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.estimate.attention_core import attention_cores, core_inputs
from autopart.ir.graph import Graph
from tests.capture.models import Attending, AttendingLayer, graph_of, tiny_gpt, tiny_llama, token_batch


def cores(graph: Graph) -> list[list[str]]:
    found = attention_cores(graph, range(len(graph.nodes)))
    return [[graph.nodes[index].op.split(".")[1] for index in core] for core in found]


def batch() -> torch.Tensor:
    return torch.randn(2, 6, 8)


class TwiceAttending(nn.Module):
    """To itself, then to what was made before."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(8, 8), AttendingLayer(8, 2), AttendingLayer(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, sequence, width) -> mean square."""
        x = self.enter(x)
        return self.second(self.first(x)).square().mean()


class Mixing(nn.Module):
    """Scores go through a weight between the products."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix = nn.Linear(8, 8), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, sequence, width) -> mean square."""
        x = self.enter(x)
        return (self.mix(x @ x.transpose(1, 2)).softmax(dim=-1) @ x).square().mean()


class Weighted(nn.Module):
    """Products with what is made of weights alone, and one product of activations by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.low, self.high = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, sequence, width) -> mean square."""
        x = F.linear(self.enter(x), self.high.weight @ self.low.weight)
        return (x @ x.transpose(1, 2)).square().mean()


def test_written_out() -> None:
    graph = graph_of(Attending(1, 8, 2), batch())
    ((*ops,),) = cores(graph)
    assert ops[0] == ops[-1] == "matmul" and {"div", "softmax", "dropout"} <= set(ops) <= {*ops, "matmul"}
    assert "linear" not in ops
    (core,) = attention_cores(graph, range(len(graph.nodes)))
    assert len(core_inputs(graph, core)) == 3


def test_one_op() -> None:
    gpt, llama = graph_of(tiny_gpt(layers=2), token_batch()), graph_of(tiny_llama(layers=2), token_batch())
    assert cores(gpt) == cores(llama) == [["scaled_dot_product_attention"]] * 2


@pytest.mark.parametrize(
    ("model", "count"), [(TwiceAttending(), 2), (Mixing(), 0), (Weighted(), 0)], ids=["two", "mixing", "weighted"]
)
def test_how_many(model: nn.Module, count: int) -> None:
    assert len(cores(graph_of(model, batch()))) == count
