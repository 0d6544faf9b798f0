"""The axes of small models, and the parts that an axis learns from the ops on it."""

import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.torch_export import capture
from autopart.ir.graph import Graph
from autopart.sharding.find_rule import find_rule
from autopart.sharding.infer_axes import Axes, infer_axes
from autopart.sharding.strategies import Strategy, strategies


class FusedAttention(nn.Module):
    """Grouped-query attention from one projection: `heads` queries, `kv_heads` keys and values."""

    def __init__(self, heads: int, kv_heads: int, width: int = 4) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, width
        self.qkv = nn.Linear(heads * width, (heads + 2 * kv_heads) * width)
        self.out = nn.Linear(heads * width, heads * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = [self.heads * self.width, self.kv_heads * self.width, self.kv_heads * self.width]
        q, k, v = (y.unflatten(-1, (-1, self.width)).transpose(1, 2) for y in self.qkv(x).split(sizes, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.out(y.transpose(1, 2).flatten(2))


class RepeatedKeys(nn.Module):
    """Grouped-query attention as transformers writes it: keys and values are expanded to all heads."""

    def __init__(self, heads: int, kv_heads: int, width: int = 4) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, width
        self.q = nn.Linear(heads * width, heads * width)
        self.k = nn.Linear(heads * width, kv_heads * width)
        self.v = nn.Linear(heads * width, kv_heads * width)

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        group = self.heads // self.kv_heads
        y = x.view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        y = y[:, :, None].expand(batch, self.kv_heads, group, length, self.width)
        return y.reshape(batch, self.heads, length, self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, self.repeated(self.k(x)), self.repeated(self.v(x)))


def axes(model: nn.Module, *batch: torch.Tensor) -> tuple[Graph, Axes]:
    graph = capture(model, batch).graph
    return graph, infer_axes(graph, {node.name: find_rule(node, graph) for node in graph.nodes})


def weight(graph: Graph, target: str) -> str:
    return next(p.value.name for p in graph.parameters if p.target == target)


def options(graph: Graph, found: Axes, op: str, degree: int) -> list[Strategy]:
    node = next(node for node in graph.nodes if node.op.startswith(op))
    return list(strategies(node, graph, find_rule(node, graph), found.parts_of, degree))


def test_a_fused_projection_learns_that_it_must_be_cut_in_three() -> None:
    graph, found = axes(FusedAttention(4, 4), torch.zeros(2, 8, 16))
    assert (1, 1, 1) in found.parts_of[(weight(graph, "qkv.weight"), 0)]
    assert (1, 1, 1) in found.parts_of[(weight(graph, "qkv.bias"), 0)]
    shown = [str(option.inputs[1]) for option in options(graph, found, "aten.linear", 2)]
    assert "S(0,1:1:1)|S(0,1:1:1)" in shown


def test_unequal_pieces_are_unequal_parts() -> None:
    graph, found = axes(FusedAttention(8, 2), torch.zeros(2, 8, 32))
    assert (4, 1, 1) in found.parts_of[(weight(graph, "qkv.weight"), 0)]


def test_heads_reach_from_the_projection_to_the_output() -> None:
    graph, found = axes(FusedAttention(4, 4), torch.zeros(2, 8, 16))
    attention = next(node for node in graph.nodes if "scaled_dot_product" in node.op)
    q, _, _ = attention.inputs
    assert found.axis_of[(q, 1)] == found.axis_of[(attention.output.name, 1)]
    assert found.axis_of[(q, 1)].name == "heads"
    assert found.axis_of[(q, 1)] != found.axis_of[(q, 3)]


def test_more_ranks_than_key_heads_share_the_groups() -> None:
    graph, found = axes(RepeatedKeys(8, 2), torch.zeros(2, 6, 32))
    node = next(node for node in graph.nodes if "scaled_dot_product" in node.op)
    assert (1, 1) in found.parts_of[(node.inputs[0], 1)]
    assert (1, 1) in found.parts_of[(weight(graph, "q.weight"), 0)]
    shown = [str(option.outputs[0]) for option in options(graph, found, "aten.scaled_dot_product", 4)]
    assert "S(1)|S(1)" in shown
    assert "S(1,1:1)|S(1,1:1)" in shown
    expansions = [(str(o.inputs[0]), str(o.outputs[0])) for o in options(graph, found, "aten.expand", 4)]
    assert ("R|P", "S(2)|S(2)") in expansions  # every rank reads all keys, for its heads of every group


def test_an_axis_that_is_cut_at_every_step_has_few_kinds_of_parts() -> None:
    class Cuts(nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for step in range(1, self.steps):
                x = x + torch.cat(x.split((step, self.steps - step), 1)[::-1], 1)
            return x

    sizes = [
        len(found.parts_of[(graph.outputs[0], 1)])
        for graph, found in (axes(Cuts(n), torch.zeros(2, n)) for n in (40, 50))
    ]
    assert sizes[0] == sizes[1] > 1


def test_batch_and_sequence_are_named_by_the_input() -> None:
    graph, found = axes(FusedAttention(4, 4), torch.zeros(2, 8, 16))
    assert found.axis_of[(graph.inputs[0].value.name, 0)].name == "batch"
    assert found.axis_of[(graph.inputs[0].value.name, 1)].name == "sequence"
    assert found.axis_of[(graph.outputs[0], 0)].name == "batch"


def test_a_flattened_batch_keeps_no_sequence() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(0, 1))

    graph, found = axes(Flattened(), torch.zeros(2, 4, 8))
    flattened = options(graph, found, "aten.flatten", 2)
    assert [str(option.inputs[0]) for option in flattened if option.divided] == ["S(2)|S(2)"]
